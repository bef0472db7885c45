//! Reads a request body whole, within limits: the size of one body, the total size of all bodies in memory, the time
//! between two pieces, and a minimum upload rate that the slowest usual uplink meets. A compressed body is decoded
//! while it arrives, and the same limits apply to the decoded size. The bytes that the gateway checks are the bytes
//! that it forwards.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::http::buffer::{BodyBuffer, BufferPool};
use crate::request_body::budget::{BufferBudget, BufferPermit, OverBudgetError};
use crate::request_body::coding::{Coding, Decoder};
use crate::runtime::timers::{TickTimer, TimerEntry};
use crate::table::Entry;

/// The most memory that is reserved because of a declared length. Beyond this, the buffer grows as data arrives.
const TRUSTED_LENGTH: usize = 256 << 10;
/// Minimum upload rate in bytes a second, averaged over [`RATE_WINDOW`] × `body_idle`: less than half of the rate of
/// GPRS. The average allows pauses up to `body_idle`.
const MIN_RATE: u64 = 1024;
const RATE_WINDOW: u32 = 4;
/// A body of up to this many bytes is sent in one buffer with the request head.
pub const SMALL_BODY: usize = 8 << 10;
/// Maximum ratio of decoded to compressed size. Text reaches 10; a long run of one letter reaches 1000. The ratio is
/// checked only from [`RATIO_FREE`] decoded bytes on: a short body of repeated bytes uses little memory.
const MAX_RATIO: usize = 100;
const RATIO_FREE: usize = 1 << 20;
/// The most input and the most output of one decoding step. Other requests of the worker run between two steps.
const MAX_INPUT_STEP: usize = 4 << 10;
const MAX_OUTPUT_STEP: usize = 32 << 10;
/// Bytes of a body that are read before other requests of the worker run.
const READ_QUOTA: usize = 128 << 10;

/// The connection or stream that a request body is read from.
pub trait BodySource {
    /// The declared length, if there is one.
    fn declared_length(&self) -> Option<u64>;

    /// Appends the available data to `into` and returns its length; 0 at the end of a complete body. `into` is empty at
    /// first.
    ///
    /// # Errors
    /// [`BodyReadError`]
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut BodyBuffer,
    ) -> Poll<Result<usize, BodyReadError>>;
}

/// The body ended early, or its framing is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyReadError;

/// A complete body, and its part of the budget.
#[derive(Debug)]
pub struct CollectedBody {
    content: Content,
    received: usize,
}

#[derive(Debug)]
enum Content {
    Own(BodyBuffer, BufferPermit),
    Shared(Arc<SharedBody>),
}

/// A complete body that another thread reads too. It keeps its part of the budget until nobody has it any more.
#[derive(Debug)]
pub struct SharedBody {
    bytes: Vec<u8>,
    start: usize,
    _permit: BufferPermit,
}

impl SharedBody {
    /// The body, decoded.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

/// A body's part of the budget, kept for a copy of the body.
#[derive(Debug)]
pub enum BodyPermit {
    /// The body is gone.
    Own(BufferPermit),
    /// The body is there for as long as others read it.
    Shared(Arc<SharedBody>),
}

impl CollectedBody {
    /// The body, decoded.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Own(body, _) => body.bytes(),
            Content::Shared(shared) => shared.bytes(),
        }
    }

    /// The number of bytes received; less than the length of the body if it was compressed.
    #[must_use]
    pub fn received(&self) -> usize {
        self.received
    }

    /// Frees the body but keeps its part of the budget, for a copy elsewhere.
    #[must_use]
    pub fn into_permit(self) -> BodyPermit {
        match self.content {
            Content::Own(_, permit) => BodyPermit::Own(permit),
            Content::Shared(shared) => BodyPermit::Shared(shared),
        }
    }

    /// Shares the body with another thread, without a copy.
    #[must_use]
    pub fn share(self) -> (Self, Arc<SharedBody>) {
        let received = self.received;
        let shared = match self.content {
            Content::Shared(shared) => shared,
            Content::Own(body, permit) => {
                let (bytes, start) = body.into_bytes();
                Arc::new(SharedBody {
                    bytes,
                    start,
                    _permit: permit,
                })
            }
        };
        let content = Content::Shared(Arc::clone(&shared));
        (Self { content, received }, shared)
    }
}

/// Why a body was not collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectError {
    /// The body is larger than one body may be, which is so many bytes.
    TooLarge(usize),
    /// All bodies together would exceed the budget.
    Overloaded,
    /// No data arrived in time, or too little.
    Stalled,
    /// The body ended early, or its framing is invalid.
    Broken,
    /// The body does not match its Content-Encoding.
    Undecodable,
    /// The decoded size exceeds the allowed ratio.
    Inflated,
}

impl From<OverBudgetError> for CollectError {
    fn from(OverBudgetError: OverBudgetError) -> Self {
        Self::Overloaded
    }
}

impl From<BodyReadError> for CollectError {
    fn from(BodyReadError: BodyReadError) -> Self {
        Self::Broken
    }
}

/// The limits on reading a body.
#[derive(Clone, Debug)]
pub struct BodyLimits {
    /// The largest body, in bytes.
    pub size: usize,
    /// The budget for all bodies.
    pub budget: BufferBudget,
    /// The longest time between two pieces.
    pub idle: Duration,
}

/// Reads a body to its end. Trailers are discarded.
///
/// # Errors
/// [`CollectError`]; a body with a declared length over the limit is refused before any of it is read.
pub async fn collect<S: BodySource>(
    source: &mut S,
    key: &Arc<Entry>,
    limits: &BodyLimits,
    buffers: &BufferPool,
    timer: &TickTimer,
    entry: &TimerEntry,
) -> Result<CollectedBody, CollectError> {
    let declared = check_declared(source, limits)?;
    let mut reader = PieceReader::new(source, limits, timer, entry);
    let mut permit = BufferPermit::empty(&limits.budget, key);
    let mut body = BodyBuffer::new(buffers);
    while reader.read(&mut body).await? > 0 {
        if body.len() > limits.size {
            return Err(CollectError::TooLarge(limits.size));
        }
        permit.resize(body.len())?;
        if body.len() < declared {
            body.reserve(declared.min(TRUSTED_LENGTH).saturating_sub(body.len()));
        }
    }
    entry.clear_deadline();
    Ok(CollectedBody {
        received: body.len(),
        content: Content::Own(body, permit),
    })
}

/// Reads a compressed body to its end and decodes it as it arrives, without keeping the compressed bytes. Other
/// requests of the worker run between two short decoding steps.
///
/// # Errors
/// [`CollectError`]; the size limit applies to the compressed and to the decoded size.
pub async fn collect_decoded<S: BodySource>(
    source: &mut S,
    coding: Coding,
    key: &Arc<Entry>,
    limits: &BodyLimits,
    buffers: &BufferPool,
    timer: &TickTimer,
    entry: &TimerEntry,
) -> Result<CollectedBody, CollectError> {
    check_declared(source, limits)?;
    let mut reader = PieceReader::new(source, limits, timer, entry);
    let mut permit = BufferPermit::empty(&limits.budget, key);
    let mut decoder = Decoder::new(coding).ok_or(CollectError::Overloaded)?;
    permit.resize(decoder.memory())?;
    let mut piece = BodyBuffer::new(buffers);
    let mut whole = Vec::new();
    let mut received = 0;
    while reader.read(&mut piece).await? > 0 {
        received += piece.len();
        if received > limits.size {
            return Err(CollectError::TooLarge(limits.size));
        }
        let mut rest = piece.bytes();
        loop {
            let before = whole.len();
            whole.resize(before + MAX_OUTPUT_STEP, 0);
            let input = &rest[..rest.len().min(MAX_INPUT_STEP)];
            let step = decoder.step(input, &mut whole[before..]);
            let step = step.map_err(|_| CollectError::Undecodable)?;
            whole.truncate(before + step.produced);
            rest = &rest[step.consumed..];
            if whole.len() > limits.size {
                return Err(CollectError::TooLarge(limits.size));
            }
            let decoded = received - rest.len();
            if whole.len() > RATIO_FREE && whole.len() / MAX_RATIO > decoded {
                return Err(CollectError::Inflated);
            }
            permit.resize(whole.len() + decoder.memory())?;
            if rest.is_empty() && step.produced < MAX_OUTPUT_STEP {
                break;
            }
            if step.consumed == 0 && step.produced == 0 {
                return Err(CollectError::Undecodable);
            }
            tokio::task::yield_now().await;
        }
        piece.clear();
    }
    entry.clear_deadline();
    if !decoder.is_complete() {
        return Err(CollectError::Undecodable);
    }
    drop(decoder);
    whole.shrink_to_fit();
    // Returns the memory of the decoder to the budget.
    permit.resize(whole.len())?;
    Ok(CollectedBody {
        content: Content::Own(BodyBuffer::of(buffers, whole), permit),
        received,
    })
}

/// The declared length, or 0 if there is none. An error if it is over the limit.
fn check_declared<S: BodySource>(source: &S, limits: &BodyLimits) -> Result<usize, CollectError> {
    let declared = usize::try_from(source.declared_length().unwrap_or(0)).unwrap_or(usize::MAX);
    if declared > limits.size {
        return Err(CollectError::TooLarge(limits.size));
    }
    Ok(declared)
}

/// Reads a body piece by piece, each before its deadline.
struct PieceReader<'a, S> {
    source: &'a mut S,
    rate: RateLimit,
    timer: &'a TickTimer,
    entry: &'a TimerEntry,
    /// Bytes read since other requests last ran.
    read: usize,
}

impl<'a, S: BodySource> PieceReader<'a, S> {
    fn new(
        source: &'a mut S,
        limits: &BodyLimits,
        timer: &'a TickTimer,
        entry: &'a TimerEntry,
    ) -> Self {
        Self {
            source,
            rate: RateLimit::new(limits.idle, timer.now()),
            timer,
            entry,
            read: 0,
        }
    }

    /// Appends the next piece and returns its length; 0 at the end of the body.
    async fn read(&mut self, into: &mut BodyBuffer) -> Result<usize, CollectError> {
        if self.read >= READ_QUOTA {
            self.read = 0;
            tokio::task::yield_now().await;
        }
        self.entry
            .set_deadline(self.rate.deadline(self.timer.now()));
        let count = poll_fn(|cx| match self.source.poll_body(cx, into) {
            Poll::Pending if self.entry.is_late(self.timer.now()) => {
                Poll::Ready(Err(CollectError::Stalled))
            }
            Poll::Pending => {
                self.entry.register(cx);
                Poll::Pending
            }
            Poll::Ready(read) => Poll::Ready(read.map_err(CollectError::from)),
        })
        .await?;
        self.rate.received(count, self.timer.now());
        self.read += count;
        Ok(count)
    }
}

/// The minimum upload rate: one piece in every `idle`, and on average [`MIN_RATE`] in each period of [`RATE_WINDOW`] ×
/// `idle`. Without the average, a client that sends one byte now and then could hold the buffered part of its body for
/// years.
struct RateLimit {
    idle: Duration,
    /// Bytes that the current period needs, and bytes that it received.
    required: usize,
    received: usize,
    period_end: Instant,
}

impl RateLimit {
    fn new(idle: Duration, now: Instant) -> Self {
        let period = u64::try_from((RATE_WINDOW * idle).as_millis()).unwrap_or(u64::MAX);
        let required = period.saturating_mul(MIN_RATE) / 1000;
        Self {
            idle,
            required: usize::try_from(required).unwrap_or(usize::MAX),
            received: 0,
            period_end: now + RATE_WINDOW * idle,
        }
    }

    /// The deadline of the next piece.
    fn deadline(&self, now: Instant) -> Instant {
        self.period_end.min(now + self.idle)
    }

    /// The next period begins once this one has received enough bytes.
    fn received(&mut self, bytes: usize, now: Instant) {
        self.received += bytes;
        if self.received >= self.required {
            self.received = 0;
            self.period_end = now + RATE_WINDOW * self.idle;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::key::Key;
    use crate::policy::key::fixture::key_fields;
    use crate::request_body::budget::BodySize;

    fn limits(size: usize, all: usize) -> BodyLimits {
        BodyLimits {
            size,
            budget: BufferBudget::new(all, size),
            idle: Duration::from_secs(30),
        }
    }

    /// A body that arrives in these pieces.
    struct Pieces {
        pieces: Vec<Vec<u8>>,
        declared: Option<u64>,
    }

    impl BodySource for Pieces {
        fn declared_length(&self) -> Option<u64> {
            self.declared
        }

        fn poll_body(
            &mut self,
            _: &mut Context<'_>,
            into: &mut BodyBuffer,
        ) -> Poll<Result<usize, BodyReadError>> {
            if self.pieces.is_empty() {
                return Poll::Ready(Ok(0));
            }
            let piece = self.pieces.remove(0);
            into.append(&piece);
            Poll::Ready(Ok(piece.len()))
        }
    }

    /// `count` pieces of `size` bytes, numbered, without a declared length.
    fn pieces(count: u8, size: usize) -> Pieces {
        Pieces {
            pieces: (0..count).map(|at| vec![at; size]).collect(),
            declared: None,
        }
    }

    fn whole(body: Vec<u8>) -> Pieces {
        Pieces {
            declared: Some(body.len() as u64),
            pieces: body.chunks(16 << 10).map(<[u8]>::to_vec).collect(),
        }
    }

    async fn read(mut body: Pieces, limits: &BodyLimits) -> Result<CollectedBody, CollectError> {
        let timer = TickTimer::default();
        let buffers = BufferPool::default();
        let key = Arc::new(Entry::from(Key::from(key_fields("key_1"))));
        collect(&mut body, &key, limits, &buffers, &timer, &timer.entry()).await
    }

    async fn refused(body: Pieces, limits: &BodyLimits) -> Option<CollectError> {
        read(body, limits).await.err()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn pieces_become_one_body_in_their_order() {
        let body = read(pieces(3, 2), &limits(6, 6)).await.unwrap();
        assert_eq!(body.bytes(), [0, 0, 1, 1, 2, 2]);
        assert!(
            read(pieces(0, 0), &limits(6, 6))
                .await
                .unwrap()
                .bytes()
                .is_empty()
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_body_over_its_limit_is_refused_declared_or_not() {
        let too_large = |limit| Some(CollectError::TooLarge(limit));
        assert_eq!(
            refused(whole(b"1234567".to_vec()), &limits(6, 99)).await,
            too_large(6)
        );
        assert_eq!(refused(pieces(4, 2), &limits(7, 99)).await, too_large(7));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_budget_over_all_bodies_is_kept_and_given_back() {
        let limits = limits(10, 10);
        let held = read(pieces(2, 4), &limits).await.unwrap();
        let overloaded = Some(CollectError::Overloaded);
        assert_eq!(refused(pieces(2, 2), &limits).await, overloaded);
        let permit = held.into_permit();
        assert_eq!(refused(pieces(2, 2), &limits).await, overloaded);
        drop(permit);
        assert!(read(pieces(2, 5), &limits).await.is_ok());
        assert!(read(pieces(2, 5), &limits).await.is_ok());
    }

    #[test]
    fn a_body_comes_at_its_rate_or_is_given_up() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        // One piece in every 30 s, and 120 KiB in every 120 s.
        let mut rate = RateLimit::new(Duration::from_secs(30), start);
        assert_eq!(rate.deadline(at(0)), at(30));
        rate.received(1, at(29));
        assert_eq!(rate.deadline(at(29)), at(59));
        rate.received(119 << 10, at(110));
        assert_eq!(rate.deadline(at(110)), at(120));
        // A body at the minimum rate is accepted. A faster part does not allow a slower one later.
        let mut rate = RateLimit::new(Duration::from_secs(30), start);
        rate.received(120 << 10, at(119));
        assert_eq!(rate.deadline(at(119)), at(149));
        rate.received(30 << 20, at(120));
        rate.received(1, at(149));
        assert_eq!(rate.deadline(at(239)), at(240));
    }

    fn held(limits: &BodyLimits) -> usize {
        let budget = &limits.budget;
        budget.held(BodySize::Large) + budget.held(BodySize::Small)
    }

    fn gzipped(data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = flate2::write::GzEncoder::new(&mut out, flate2::Compression::default());
        std::io::Write::write_all(&mut encoder, data).unwrap();
        encoder.finish().unwrap();
        out
    }

    async fn decoded(body: Vec<u8>, limits: &BodyLimits) -> Result<CollectedBody, CollectError> {
        let (timer, buffers) = (TickTimer::default(), BufferPool::default());
        let mut body = whole(body);
        let (gzip, entry) = (Coding::Gzip, timer.entry());
        let key = Arc::new(Entry::from(Key::from(key_fields("key_1"))));
        collect_decoded(&mut body, gzip, &key, limits, &buffers, &timer, &entry).await
    }

    /// Text that compresses, but by less than a factor of 100.
    fn text(length: usize) -> Vec<u8> {
        let numbers = (0_u32..)
            .flat_map(|number| format!("{} ", number.wrapping_mul(2_654_435_761)).into_bytes());
        numbers.take(length).collect()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_compressed_body_is_decoded_whole_and_its_decoders_memory_given_back() {
        let data = text(500_000);
        let limits = limits(500_000, 1 << 20);
        let collected = decoded(gzipped(&data), &limits).await.unwrap();
        assert_eq!(collected.bytes(), &data);
        assert_eq!(collected.received(), gzipped(&data).len());
        assert_eq!(held(&limits), data.len());
        drop(collected);
        assert_eq!(held(&limits), 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_limits_hold_for_what_a_body_unpacks_to_and_all_is_given_back() {
        let full = 64 << 20;
        let error = async |body: Vec<u8>, size: usize, all: usize| {
            let limits = limits(size, all);
            let error = decoded(body, &limits).await.map(|_| ()).unwrap_err();
            assert_eq!(held(&limits), 0);
            error
        };
        let body = || gzipped(&text(200_000));
        assert_eq!(
            error(body(), 199_999, full).await,
            CollectError::TooLarge(199_999)
        );
        assert_eq!(
            error(body(), 200_000, 100_000).await,
            CollectError::Overloaded
        );
        assert_eq!(error(body(), 200_000, 1000).await, CollectError::Overloaded);
        // Larger than its decoded size, because of the headers of its members.
        let empty = gzipped(b"").repeat(1000);
        assert_eq!(
            error(empty, 10_000, full).await,
            CollectError::TooLarge(10_000)
        );
        let zeros = gzipped(&vec![b'0'; 8 << 20]);
        assert_eq!(error(zeros, 32 << 20, full).await, CollectError::Inflated);
        let cut = body()[..1000].to_vec();
        assert_eq!(error(cut, full, full).await, CollectError::Undecodable);
        assert_eq!(
            error(Vec::new(), full, full).await,
            CollectError::Undecodable
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_short_body_may_unpack_to_more_than_its_ratio() {
        let zeros = vec![b'0'; 1 << 20];
        let collected = decoded(gzipped(&zeros), &limits(1 << 20, 8 << 20)).await;
        assert_eq!(collected.unwrap().bytes(), &zeros);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn other_tasks_run_while_a_body_is_decoded() {
        let (body, limits) = (gzipped(&text(4 << 20)), limits(8 << 20, 32 << 20));
        let turns = std::cell::Cell::new(0);
        let others = async {
            loop {
                turns.set(turns.get() + 1);
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            decoded = decoded(body, &limits) => assert!(decoded.is_ok()),
            () = others => {}
        }
        assert!(turns.get() > 100, "{} turns", turns.get());
    }
}
