//! A stand-in for an LLM server. Answers are ready before anyone asks; a request is read to its end and not looked at.
//! A request with the header `Stand-In: CHUNKS MICROSECONDS` gets a stream of so many chunks that far apart (0: as
//! fast as the other side takes them), each chunk in a write of its own, as LLM servers write them.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, TcpListener};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use crate::Fault;
use crate::framing::{Message, Side};
use crate::options::Options;
use crate::socket::Socket;

const LISTENER: u64 = u64::MAX;
const LAST_CHUNK: &[u8] = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 10:00:00 GMT\r\nserver: uvicorn\r\n\
    content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";

struct Connection {
    socket: Socket,
    message: Message,
    /// Chunks that are still to be sent.
    chunks: u32,
    every: Duration,
    /// Waits until the other side takes more.
    is_blocked: bool,
    /// Tells this connection from an earlier one in the same place.
    number: u64,
}

struct Upstream {
    listener: TcpListener,
    epoll: rustix::fd::OwnedFd,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Streams that wait for the time of their next chunk, the earliest first: all have the same pace.
    yield_every: VecDeque<(Instant, usize, u64)>,
    /// Streams without a pace.
    hasty: VecDeque<(usize, u64)>,
    accepted: u64,
    requests: u64,
    answer: Vec<u8>,
    chunk: Vec<u8>,
    buffer: Vec<u8>,
}

/// Serves until it is ended.
pub(crate) fn run(options: &Options) -> Result<(), Fault> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.number("port", 0)?))?;
    listener.set_nonblocking(true)?;
    println!("{}", listener.local_addr()?.port());
    // The standard library's 128 is too few for thousands that connect at once.
    rustix::net::listen(&listener, 4096)?;
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(
        &epoll,
        &listener,
        EventData::new_u64(LISTENER),
        EventFlags::IN,
    )?;
    let mut upstream = Upstream {
        listener,
        epoll,
        connections: Vec::new(),
        free: Vec::new(),
        yield_every: VecDeque::new(),
        hasty: VecDeque::new(),
        accepted: 0,
        requests: 0,
        answer: answer(),
        chunk: chunk(),
        buffer: vec![0; 128 << 10],
    };
    let mut events = Vec::with_capacity(256);
    loop {
        let timeout = upstream.time_to_next_chunk();
        match epoll::wait(
            &upstream.epoll,
            spare_capacity(&mut events),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            match event.data.u64() {
                LISTENER => upstream.accept()?,
                at => upstream.ready(usize::try_from(at)?, event.flags),
            }
        }
        upstream.send_due_chunks();
    }
}

impl Upstream {
    fn accept(&mut self) -> Result<(), Fault> {
        while let Ok((stream, _)) = self.listener.accept() {
            self.accepted += 1;
            let connection = Connection {
                socket: Socket::accepted(stream)?,
                message: Message::default(),
                chunks: 0,
                every: Duration::ZERO,
                is_blocked: false,
                number: self.accepted,
            };
            let at = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let data = EventData::new_u64(at as u64);
            epoll::add(&self.epoll, &connection.socket, data, EventFlags::IN)?;
            self.connections[at] = Some(connection);
        }
        Ok(())
    }

    /// Whatever goes wrong with a connection ends it: the load at the other end tells.
    fn ready(&mut self, at: usize, flags: EventFlags) {
        let Some(mut connection) = self.connections.get_mut(at).and_then(Option::take) else {
            return;
        };
        let mut lives = true;
        if flags.contains(EventFlags::OUT) {
            lives = self.unblock(at, &mut connection);
        }
        if lives && flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            lives = self.read(at, &mut connection);
        }
        self.put_back(at, connection, lives);
    }

    fn put_back(&mut self, at: usize, connection: Connection, lives: bool) {
        if lives {
            self.connections[at] = Some(connection);
        } else {
            self.free.push(at);
        }
    }

    fn read(&mut self, at: usize, connection: &mut Connection) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = connection.socket.receive(&mut buffer);
        let lives = match read {
            Ok(None) => true,
            Ok(Some(0)) | Err(_) => false,
            Ok(Some(count)) => self.take(at, connection, &buffer[..count]),
        };
        self.buffer = buffer;
        lives
    }

    fn take(&mut self, at: usize, connection: &mut Connection, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let Ok(taken) = connection.message.feed(Side::Request, bytes) else {
                return false;
            };
            bytes = &bytes[taken..];
            if connection.message.is_whole() {
                connection.message.start_anew();
                self.requests += 1;
                if !self.answer(at, connection) {
                    return false;
                }
            }
        }
        true
    }

    fn answer(&mut self, at: usize, connection: &mut Connection) -> bool {
        let head = &connection.message.head;
        if let Some((chunks, every)) = head.stream {
            connection.chunks = chunks;
            connection.every = Duration::from_micros(every);
            let sent = connection.socket.send(STREAM_HEAD).is_ok();
            self.schedule(at, connection);
            return sent;
        }
        if head.path == "/stand-in" {
            let told = format!(
                r#"{{"connections":{},"requests":{}}}"#,
                self.accepted, self.requests
            );
            let told = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{told}",
                told.len()
            );
            return connection.socket.send(told.as_bytes()).is_ok();
        }
        match connection.socket.send(&self.answer) {
            Ok(true) => true,
            Ok(false) => self.wait_to_write(at, connection),
            Err(_) => false,
        }
    }

    fn schedule(&mut self, at: usize, connection: &Connection) {
        if connection.every.is_zero() {
            self.hasty.push_back((at, connection.number));
        } else {
            let due = Instant::now() + connection.every;
            self.yield_every.push_back((due, at, connection.number));
        }
    }

    fn time_to_next_chunk(&self) -> Option<Timespec> {
        let wait = match (self.hasty.is_empty(), self.yield_every.front()) {
            (false, _) => Duration::ZERO,
            (true, Some((due, _, _))) => due.saturating_duration_since(Instant::now()),
            (true, None) => return None,
        };
        Timespec::try_from(wait).ok()
    }

    fn send_due_chunks(&mut self) {
        let now = Instant::now();
        while self
            .yield_every
            .front()
            .is_some_and(|(due, _, _)| *due <= now)
        {
            let Some((due, at, number)) = self.yield_every.pop_front() else {
                break;
            };
            self.send_chunk(at, number, Some(due));
        }
        // One chunk for each, then a look at the sockets: no stream waits for another to end.
        for _ in 0..self.hasty.len() {
            let Some((at, number)) = self.hasty.pop_front() else {
                break;
            };
            self.send_chunk(at, number, None);
        }
    }

    fn send_chunk(&mut self, at: usize, number: u64, due: Option<Instant>) {
        let Some(mut connection) = self.connections.get_mut(at).and_then(Option::take) else {
            return;
        };
        if connection.number != number {
            self.connections[at] = Some(connection);
            return;
        }
        connection.chunks -= 1;
        let chunk = match connection.chunks {
            0 => LAST_CHUNK,
            _ => &self.chunk[..],
        };
        let sent = connection.socket.send(chunk);
        let mut lives = sent.is_ok();
        if matches!(sent, Ok(false)) {
            lives = self.wait_to_write(at, &mut connection);
        } else if connection.chunks > 0 {
            match due {
                // From when it was due, so that a late chunk does not delay all that follow.
                Some(due) => {
                    self.yield_every
                        .push_back((due + connection.every, at, connection.number));
                }
                None => self.hasty.push_back((at, connection.number)),
            }
        }
        self.put_back(at, connection, lives);
    }

    fn wait_to_write(&self, at: usize, connection: &mut Connection) -> bool {
        connection.is_blocked = true;
        let data = EventData::new_u64(at as u64);
        let both = EventFlags::IN | EventFlags::OUT;
        epoll::modify(&self.epoll, &connection.socket, data, both).is_ok()
    }

    fn unblock(&mut self, at: usize, connection: &mut Connection) -> bool {
        match connection.socket.flush() {
            Ok(true) => {}
            Ok(false) => return true,
            Err(_) => return false,
        }
        if !std::mem::take(&mut connection.is_blocked) {
            return true;
        }
        if connection.chunks > 0 {
            self.schedule(at, connection);
        }
        let data = EventData::new_u64(at as u64);
        epoll::modify(&self.epoll, &connection.socket, data, EventFlags::IN).is_ok()
    }
}

/// A short completion, with the headers that vLLM's web server sends: about 700 bytes of JSON.
fn answer() -> Vec<u8> {
    let body = concat!(
        r#"{"id":"chatcmpl-3f0c1b7e5d2a4c8f9e6b0a1d2c3e4f50","object":"chat.completion","created":1795341600,"#,
        r#""model":"stand-in","choices":[{"index":0,"message":{"role":"assistant","content":"It looks at how many "#,
        r#"requests each server still has in hand and gives the next one to the server with the fewest. A slow server "#,
        r#"keeps its requests longer, so it is asked less often, without anyone measuring its speed.","refusal":null,"#,
        r#""annotations":null,"audio":null,"function_call":null,"tool_calls":[],"reasoning_content":null},"#,
        r#""logprobs":null,"finish_reason":"stop","stop_reason":null}],"service_tier":null,"system_fingerprint":null,"#,
        r#""usage":{"prompt_tokens":431,"total_tokens":484,"completion_tokens":53,"prompt_tokens_details":null}}"#
    );
    format!(
        "HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 10:00:00 GMT\r\nserver: uvicorn\r\ncontent-length: {}\r\n\
         content-type: application/json\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn chunk() -> Vec<u8> {
    let event = concat!(
        r#"data: {"id":"chatcmpl-3f0c1b7e5d2a4c8f9e6b0a1d2c3e4f50","object":"chat.completion.chunk","#,
        r#""created":1795341600,"model":"stand-in","choices":[{"index":0,"delta":{"content":" request"},"#,
        r#""logprobs":null,"finish_reason":null}]}"#,
        "\n\n"
    );
    format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
}
