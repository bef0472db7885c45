//! The running process: workers, admin listeners, signals, and the graceful shutdown.
//!
//! On shutdown first /readyz fails, then the listeners close and the admin socket is released. A new process can start
//! then, while running requests finish.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle as Task;
use tokio::time::{sleep, timeout};

use crate::admin::reload::{self, ReloadMode};
use crate::admin::{self, Services};
use crate::cli::start_error::{StartError, system};
use crate::gateway::accept::run_worker;
use crate::gateway::worker::Gateway;
use crate::net::listen::ClaimedAddresses;
use crate::net::unix_socket::SocketFile;
use crate::observe::log::Event;
use crate::policy::audit::ChangeOrigin;
use crate::runtime::lifecycle::Phase;
use crate::store::key_store::DropLimit;

/// The signal of RLIMIT_FSIZE, see setrlimit(2). The number is the same on all Linux targets except MIPS and PA-RISC.
const SIGXFSZ: i32 = 25;
/// The longest time for requests to stop once the process ends at once.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

/// The admin API's listeners.
pub(super) struct AdminListeners {
    tasks: Vec<Task<()>>,
    /// The TCP address, if it listens over TCP.
    pub(super) address: Option<SocketAddr>,
    socket_file: Option<SocketFile>,
}

impl AdminListeners {
    /// Opens both listeners.
    pub(super) async fn open(
        services: &Arc<Services>,
        socket: std::os::unix::net::UnixListener,
        socket_file: SocketFile,
    ) -> Result<Self, StartError> {
        let listener = socket
            .set_nonblocking(true)
            .and_then(|()| UnixListener::from_std(socket));
        let listener = listener.map_err(system("the admin socket"))?;
        let mut tasks = vec![tokio::task::spawn_local(admin::serve_unix(
            listener,
            Arc::clone(services),
        ))];
        let mut address = None;
        if let Some(wanted) = services.config.admin.listen {
            let listener = TcpListener::bind(wanted)
                .await
                .map_err(system(format!("admin.listen {wanted}")))?;
            address = listener.local_addr().ok();
            if let Some(address) = address {
                // Set once: this runs once.
                let _ = services.state.address.set(address);
            }
            tasks.push(tokio::task::spawn_local(admin::serve_tcp(
                listener,
                Arc::clone(services),
            )));
        }
        Ok(Self {
            tasks,
            address,
            socket_file: Some(socket_file),
        })
    }

    /// Closes both, so that a new process can use the addresses.
    fn close(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        if let Some(file) = self.socket_file.take() {
            file.release();
        }
    }
}

/// The workers' threads.
pub(super) struct Workers {
    threads: Vec<JoinHandle<io::Result<()>>>,
    /// Receives a message each time a worker ends, also by a panic.
    ends: UnboundedReceiver<()>,
    running: usize,
}

impl Workers {
    /// Starts `count` workers, each with its own listeners. The first uses the sockets that already hold
    /// the addresses.
    pub(super) fn start(
        gateway: &Gateway,
        mut claimed: ClaimedAddresses,
        count: usize,
    ) -> Result<Self, StartError> {
        let (end, ends) = unbounded_channel();
        let mut threads = Vec::with_capacity(count);
        for index in 0..count {
            let listeners = claimed.open().map_err(StartError::Listen)?;
            let (gateway, end) = (gateway.clone(), EndNotice(end.clone()));
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            let thread = thread.spawn(move || {
                let _end = end;
                run_worker(gateway, listeners)
            });
            threads.push(thread.map_err(system("a worker's thread"))?);
        }
        Ok(Self {
            threads,
            ends,
            running: count,
        })
    }

    async fn one_ended(&mut self) {
        self.ends.recv().await;
        self.running = self.running.saturating_sub(1);
    }

    async fn all_ended(&mut self) {
        while self.running > 0 {
            self.one_ended().await;
        }
    }
}

/// Reports the end of a worker when dropped, so also after a panic.
struct EndNotice(UnboundedSender<()>);

impl Drop for EndNotice {
    fn drop(&mut self) {
        // The receiver is gone when the process ends.
        let _ = self.0.send(());
    }
}

/// Runs the process until its end.
pub(super) struct Supervisor {
    pub(super) services: Arc<Services>,
    pub(super) signals: Signals,
    pub(super) admin: AdminListeners,
    pub(super) workers: Workers,
}

impl Supervisor {
    /// Runs until a signal arrives, then shuts down gracefully.
    ///
    /// # Errors
    /// A worker ended by itself. The others drain, and the service manager should restart the process.
    pub(super) async fn run(mut self) -> Result<(), StartError> {
        // Holds at most one notification: all signals during a reload cause one further reload.
        let reload = Rc::new(Notify::new());
        tokio::task::spawn_local(reload_on_signal(
            Arc::clone(&self.services),
            Rc::clone(&reload),
        ));
        let ended = loop {
            tokio::select! {
                action = self.signals.next() => match action {
                    SignalAction::Reload => reload.notify_one(),
                    SignalAction::Shutdown => break Ok(()),
                },
                () = self.workers.one_ended() => {
                    let cause = io::Error::other("ended before it was told to");
                    break Err(StartError::System("a worker".into(), cause));
                }
            }
        };
        let services = Arc::clone(&self.services);
        services.log.event(Event::info("shutting_down"));
        tell_systemd(&[NotifyState::Stopping]);
        self.drain().await;
        for worker in self
            .workers
            .threads
            .into_iter()
            .filter(JoinHandle::is_finished)
        {
            if let Ok(Err(error)) = worker.join() {
                services
                    .log
                    .event(Event::error("worker_failed").with("reason", error.to_string()));
            }
        }
        services.log.event(Event::info("stopped"));
        ended
    }

    async fn drain(&mut self) {
        let (lifecycle, timeouts) = (&self.services.lifecycle, &self.services.config.timeouts);
        lifecycle.advance(Phase::Announcing);
        let at_once = tokio::select! {
            () = sleep(timeouts.drain_delay) => false,
            () = self.signals.shutdown_requested() => true,
        };
        lifecycle.advance(Phase::Draining);
        self.admin.close();
        if !at_once {
            tokio::select! {
                _ = timeout(timeouts.drain, self.workers.all_ended()) => {}
                () = self.signals.shutdown_requested() => {}
            }
        }
        lifecycle.advance(Phase::Ending);
        // A worker that still runs after this ends with the process.
        let _ = timeout(SHUTDOWN_GRACE, self.workers.all_ended()).await;
    }
}

/// Reloads at each notification, one after the other.
async fn reload_on_signal(services: Arc<Services>, reload: Rc<Notify>) {
    loop {
        reload.notified().await;
        let since = NotifyState::monotonic_usec_now().into_iter();
        tell_systemd(
            &[NotifyState::Reloading]
                .into_iter()
                .chain(since)
                .collect::<Vec<_>>(),
        );
        let origin = ChangeOrigin {
            actor: "SIGHUP".to_owned(),
            ..ChangeOrigin::key_file()
        };
        reload::reload(&services, origin, ReloadMode::Apply(DropLimit::Enforce)).await;
        tell_systemd(&[NotifyState::Ready]);
    }
}

/// What a signal means.
enum SignalAction {
    Reload,
    Shutdown,
}

/// The signals that the process handles.
pub(super) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    /// With this handler a write beyond the file size limit returns an error instead of ending the process.
    _file_too_large: Signal,
}

impl Signals {
    /// Handles all further signals. Must be called inside a runtime.
    pub(super) fn new(hangup: Signal) -> io::Result<Self> {
        Ok(Self {
            hangup,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _file_too_large: signal(SignalKind::from_raw(SIGXFSZ))?,
        })
    }

    async fn next(&mut self) -> SignalAction {
        tokio::select! {
            _ = self.hangup.recv() => SignalAction::Reload,
            _ = self.terminate.recv() => SignalAction::Shutdown,
            _ = self.interrupt.recv() => SignalAction::Shutdown,
        }
    }

    async fn shutdown_requested(&mut self) {
        while let SignalAction::Reload = self.next().await {}
    }
}

pub(super) fn tell_systemd(state: &[NotifyState<'_>]) {
    // An error means that systemd did not start this process.
    let _ = sd_notify::notify(state);
}
