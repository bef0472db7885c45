//! The running process: its workers, its admin listeners, the signals it hears, and its end in good order.
//!
//! First whoever asks for readiness is told, then listeners close and the admin socket is given up, so that a successor
//! can start while running requests finish.

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

use crate::admin::reload::{self, Wish};
use crate::admin::{self, Services};
use crate::gateway::accept::run_worker;
use crate::gateway::worker::Gateway;
use crate::net::listen::Claimed;
use crate::net::unix_socket::SocketFile;
use crate::observe::log::Event;
use crate::runtime::lifecycle::Phase;
use crate::store::keeper::Drops;

use super::start_fault::{StartFault, system};

/// setrlimit(2), RLIMIT_FSIZE; the same number on every Linux that Rust knows but MIPS and PA-RISC.
const SIGXFSZ: i32 = 25;
/// How long running requests may take to notice that the process ends at once.
const LAST_BREATH: Duration = Duration::from_millis(500);

/// The admin API's listeners.
pub(super) struct Admin {
    tasks: Vec<Task<()>>,
    /// Where it listens over TCP.
    pub(super) address: Option<SocketAddr>,
    socket_file: Option<SocketFile>,
}

impl Admin {
    /// Opens both listeners.
    pub(super) async fn open(
        services: &Arc<Services>,
        socket: std::os::unix::net::UnixListener,
        socket_file: SocketFile,
    ) -> Result<Self, StartFault> {
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

    /// Closes both, so that a successor can have them.
    fn give_up(&mut self) {
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
    /// Says so each time one ends, however it ends.
    ends: UnboundedReceiver<()>,
    running: usize,
}

impl Workers {
    /// Starts as many as the config says, each with listeners of its own; the first takes over what held their addresses.
    pub(super) fn start(
        gateway: &Gateway,
        mut claimed: Claimed,
        count: usize,
    ) -> Result<Self, StartFault> {
        let count = match count {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let (end, ends) = unbounded_channel();
        let mut threads = Vec::with_capacity(count);
        for index in 0..count {
            let listeners = claimed.open().map_err(StartFault::Listen)?;
            let (gateway, end) = (gateway.clone(), End(end.clone()));
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

/// Tells of a worker's end, even where it panics.
struct End(UnboundedSender<()>);

impl Drop for End {
    fn drop(&mut self) {
        // Nobody listens any more where the process itself ends.
        let _ = self.0.send(());
    }
}

/// The running process, up to its end.
pub(super) struct Life {
    pub(super) services: Arc<Services>,
    pub(super) signals: Signals,
    pub(super) admin: Admin,
    pub(super) workers: Workers,
}

impl Life {
    /// Runs until a signal ends the process, and then ends it in order.
    ///
    /// # Errors
    /// Where a worker ended by itself: what is left drains, and a supervisor should start the process anew.
    pub(super) async fn run(mut self) -> Result<(), StartFault> {
        // Holds one wish at most: signals that come while a reload runs share the next one.
        let wish = Rc::new(Notify::new());
        tokio::task::spawn_local(reload_when_told(
            Arc::clone(&self.services),
            Rc::clone(&wish),
        ));
        let ended = loop {
            tokio::select! {
                told = self.signals.next() => match told {
                    Told::Reload => wish.notify_one(),
                    Told::End => break Ok(()),
                },
                () = self.workers.one_ended() => {
                    let cause = io::Error::other("ended before it was told to");
                    break Err(StartFault::System("a worker".into(), cause));
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
            () = self.signals.told_to_end() => true,
        };
        lifecycle.advance(Phase::Draining);
        self.admin.give_up();
        if !at_once {
            tokio::select! {
                _ = timeout(timeouts.drain, self.workers.all_ended()) => {}
                () = self.signals.told_to_end() => {}
            }
        }
        lifecycle.advance(Phase::Ending);
        // A worker that does not even notice this is ended with the process.
        let _ = timeout(LAST_BREATH, self.workers.all_ended()).await;
    }
}

/// Reloads at each wish, one after the other.
async fn reload_when_told(services: Arc<Services>, wish: Rc<Notify>) {
    loop {
        wish.notified().await;
        let since = NotifyState::monotonic_usec_now().into_iter();
        tell_systemd(
            &[NotifyState::Reloading]
                .into_iter()
                .chain(since)
                .collect::<Vec<_>>(),
        );
        reload::reload(&services, "SIGHUP", Wish::Reload(Drops::Guarded)).await;
        tell_systemd(&[NotifyState::Ready]);
    }
}

/// What a signal says.
enum Told {
    Reload,
    End,
}

/// The signals that mean something here.
pub(super) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    /// Has no meaning here but that a write past a file size limit fails instead of killing the process.
    _file_too_large: Signal,
}

impl Signals {
    /// From here on a signal finds its handler, as SIGHUP did before. Within a runtime.
    pub(super) fn new(hangup: Signal) -> io::Result<Self> {
        Ok(Self {
            hangup,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _file_too_large: signal(SignalKind::from_raw(SIGXFSZ))?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.hangup.recv() => Told::Reload,
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
        }
    }

    async fn told_to_end(&mut self) {
        while let Told::Reload = self.next().await {}
    }
}

pub(super) fn tell_systemd(state: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(state);
}
