//! Buffers that connections borrow while they have bytes to hold.
//!
//! A worker keeps a small stack of them, so that the one used last, which is still in the processor's cache, is used
//! next. Invariant: a connection that waits with nothing read holds no buffer.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::http::fields::Fields;

/// Bytes of a fresh read buffer. A 64 KiB body and its head fit, so that they are read at once and never copied.
pub const READ_CAPACITY: usize = 80 << 10;
/// A buffer that grew beyond this is freed instead of kept.
const MAX_KEPT_CAPACITY: usize = 256 << 10;
/// A head's text that is longer is freed instead of kept.
const MAX_KEPT_HEAD: usize = 16 << 10;
/// Buffers that a worker keeps, of each kind.
const MAX_KEPT: usize = 64;
/// With less room than this a buffer is compacted, or grown, before the next read.
const MIN_ROOM: usize = 4 << 10;

/// One worker's free buffers. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct BufferPool(Rc<FreeBuffers>);

#[derive(Debug, Default)]
struct FreeBuffers {
    /// For reading: [`READ_CAPACITY`] bytes or more.
    read: RefCell<Vec<Vec<u8>>>,
    /// For heads and small bodies that are written.
    write: RefCell<Vec<Vec<u8>>>,
    /// For the header fields of heads.
    fields: RefCell<Vec<Fields>>,
}

impl BufferPool {
    /// An empty buffer to write a head into.
    #[must_use]
    pub fn take_write(&self) -> Vec<u8> {
        self.0.write.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes back what [`Self::take_write`] gave.
    pub fn give_write(&self, buffer: Vec<u8>) {
        give(&self.0.write, buffer, 1);
    }

    /// Memory for the header fields of a head; what it held before is still in it.
    #[must_use]
    pub fn take_fields(&self) -> Fields {
        self.0.fields.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes back what [`Self::take_fields`] gave.
    pub fn give_fields(&self, fields: Fields) {
        let mut free = self.0.fields.borrow_mut();
        if free.len() < MAX_KEPT && fields.capacity() <= MAX_KEPT_HEAD {
            free.push(fields);
        }
    }

    fn take_read(&self) -> Vec<u8> {
        let free = self.0.read.borrow_mut().pop();
        free.unwrap_or_else(|| Vec::with_capacity(READ_CAPACITY))
    }

    fn give_read(&self, buffer: Vec<u8>) {
        give(&self.0.read, buffer, READ_CAPACITY);
    }
}

fn give(free: &RefCell<Vec<Vec<u8>>>, mut buffer: Vec<u8>, min_capacity: usize) {
    let mut free = free.borrow_mut();
    if (min_capacity..=MAX_KEPT_CAPACITY).contains(&buffer.capacity()) && free.len() < MAX_KEPT {
        buffer.clear();
        free.push(buffer);
    }
}

/// What was read from a connection and not used yet.
#[derive(Debug)]
pub struct ReadBuffer {
    pool: BufferPool,
    bytes: Vec<u8>,
    /// Everything before this was used.
    start: usize,
}

impl ReadBuffer {
    /// An empty buffer, which holds no memory.
    #[must_use]
    pub fn new(pool: &BufferPool) -> Self {
        Self {
            pool: pool.clone(),
            bytes: Vec::new(),
            start: 0,
        }
    }

    /// What was read and not used yet.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The length of [`Self::unread`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether nothing is unread.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `count` unread bytes were used.
    pub fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.bytes.len());
    }

    /// Gives the memory back where nothing is unread.
    pub fn release_if_empty(&mut self) {
        if self.is_empty() && self.bytes.capacity() > 0 {
            self.pool.give_read(std::mem::take(&mut self.bytes));
            self.start = 0;
        }
    }

    /// Appends bytes, as if they had been read.
    pub fn append(&mut self, bytes: &[u8]) {
        self.make_room();
        self.bytes.extend_from_slice(bytes);
    }

    /// Reads once from a stream; 0 is its end. A buffer without unread bytes holds no memory while this is pending.
    ///
    /// # Errors
    /// The stream's.
    pub fn poll_fill<S>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>>
    where
        S: AsyncRead + Unpin,
    {
        self.poll_fill_at_most(stream, u64::MAX, cx)
    }

    /// The same, reading at most `max` bytes.
    ///
    /// # Errors
    /// The stream's.
    pub fn poll_fill_at_most<S>(
        &mut self,
        stream: &mut S,
        max: u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>
    where
        S: AsyncRead + Unpin,
    {
        self.make_room();
        let filled = pin!(stream.take(max).read_buf(&mut self.bytes)).poll(cx);
        if filled.is_pending() {
            self.release_if_empty();
        }
        filled
    }

    fn make_room(&mut self) {
        if self.is_empty() {
            self.bytes.clear();
            self.start = 0;
        }
        if self.bytes.capacity() == 0 {
            self.bytes = self.pool.take_read();
        } else if self.bytes.capacity() - self.bytes.len() < MIN_ROOM {
            self.bytes.drain(..self.start);
            self.start = 0;
            self.bytes.reserve(MIN_ROOM);
        }
    }

    /// Splits off the first `count` unread bytes, and all that will be read behind them, as a body's: the memory goes
    /// to the body, and what was read behind its end stays here.
    #[must_use]
    pub fn split_off_body(&mut self, count: usize) -> BodyBuffer {
        let start = self.start;
        let end = start + count.min(self.len());
        let mut bytes = std::mem::take(&mut self.bytes);
        self.start = 0;
        if end < bytes.len() {
            self.bytes = self.pool.take_read();
            self.bytes.extend_from_slice(&bytes[end..]);
            bytes.truncate(end);
        }
        BodyBuffer {
            pool: self.pool.clone(),
            bytes,
            start,
        }
    }

    /// Bytes at places that [`Self::decode`] told; valid until the next read.
    #[must_use]
    pub fn at(&self, places: std::ops::Range<usize>) -> &[u8] {
        self.bytes.get(places).unwrap_or_default()
    }

    /// All bytes and where the unread ones start, for a decoder that moves bytes forward in place. It returns where
    /// the unread ones start afterwards.
    pub fn decode<T>(&mut self, decode: impl FnOnce(&mut [u8], &mut usize) -> T) -> T {
        decode(&mut self.bytes, &mut self.start)
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        self.pool.give_read(std::mem::take(&mut self.bytes));
    }
}

/// A request's body, as far as it was read, in one piece.
#[derive(Debug)]
pub struct BodyBuffer {
    pool: BufferPool,
    bytes: Vec<u8>,
    /// The body starts here; its head stood before it.
    start: usize,
}

impl BodyBuffer {
    /// An empty body, which holds no memory.
    #[must_use]
    pub fn new(pool: &BufferPool) -> Self {
        Self {
            pool: pool.clone(),
            bytes: Vec::new(),
            start: 0,
        }
    }

    /// A body that is there already.
    #[must_use]
    pub fn of(pool: &BufferPool, bytes: Vec<u8>) -> Self {
        Self {
            pool: pool.clone(),
            bytes,
            start: 0,
        }
    }

    /// The body so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Its memory, which then no longer goes back to the pool, and where in it the body starts.
    #[must_use]
    pub fn into_bytes(mut self) -> (Vec<u8>, usize) {
        (std::mem::take(&mut self.bytes), self.start)
    }

    /// Its length so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether nothing came of it yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends to it.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.bytes.capacity() == 0 {
            self.bytes = self.pool.take_read();
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Makes room for so many more bytes.
    pub fn reserve(&mut self, count: usize) {
        if self.bytes.capacity() == 0 {
            self.bytes = self.pool.take_read();
        }
        self.bytes.reserve(count);
    }

    /// Forgets what came, and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// Reads once from a stream, at most `most` bytes; 0 is its end.
    ///
    /// # Errors
    /// The stream's.
    pub fn poll_fill<S>(
        &mut self,
        stream: &mut S,
        most: u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>
    where
        S: AsyncRead + Unpin,
    {
        if self.bytes.capacity() - self.bytes.len() < MIN_ROOM {
            self.reserve(MIN_ROOM);
        }
        let mut limited = stream.take(most);
        pin!(limited.read_buf(&mut self.bytes)).poll(cx)
    }
}

impl Drop for BodyBuffer {
    fn drop(&mut self) {
        self.pool.give_read(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn an_empty_buffer_holds_no_memory_while_it_waits() {
        let pool = BufferPool::default();
        let (mut near, mut far) = tokio::io::duplex(64);
        let mut buffer = ReadBuffer::new(&pool);
        let waits =
            std::future::poll_fn(|cx| Poll::Ready(buffer.poll_fill(&mut near, cx).is_pending()));
        assert!(waits.await);
        assert_eq!(buffer.bytes.capacity(), 0);
        tokio::io::AsyncWriteExt::write_all(&mut far, b"some")
            .await
            .unwrap();
        let count = std::future::poll_fn(|cx| buffer.poll_fill(&mut near, cx))
            .await
            .unwrap();
        assert_eq!((count, buffer.unread()), (4, &b"some"[..]));
        buffer.consume(4);
        buffer.release_if_empty();
        assert_eq!(
            (buffer.bytes.capacity(), pool.0.read.borrow().len()),
            (0, 1)
        );
    }

    #[test]
    fn a_body_is_split_off_without_a_copy_and_what_follows_it_stays() {
        let pool = BufferPool::default();
        let mut buffer = ReadBuffer::new(&pool);
        buffer.append(b"head body next");
        buffer.consume(5);
        let place = buffer.unread().as_ptr();
        let body = buffer.split_off_body(4);
        assert_eq!(
            (body.bytes(), buffer.unread()),
            (&b"body"[..], &b" next"[..])
        );
        assert_eq!(body.bytes().as_ptr(), place);
        let rest = buffer.split_off_body(9);
        assert_eq!((rest.bytes(), buffer.unread()), (&b" next"[..], &b""[..]));
    }
}
