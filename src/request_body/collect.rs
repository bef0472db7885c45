//! A request's body, read whole under its limits: its own size, the size of all bodies held at once, the time between
//! two of its pieces, and a pace that the slowest honest uplink keeps. A compressed one is decoded as it comes, and the
//! same limits hold for what it unpacks to. What is checked and what is forwarded are these same bytes.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::http::buffer::{BodyBuffer, BufferPool};
use crate::request_body::coding::{Coding, Decoder};
use crate::runtime::timers::{TickTimer, TimerEntry};

/// Room that is made for a body because it declares its length; more is made as it comes.
const TRUSTED_LENGTH: usize = 256 << 10;
/// Minimum upload rate in bytes a second, averaged over [`RATE_WINDOW`] × `body_idle`: less than half of what GPRS
/// carries. The average allows pauses up to `body_idle`.
const MIN_RATE: u64 = 1024;
const RATE_WINDOW: u32 = 4;
/// A body up to this length leaves in one buffer with its head.
pub const SMALL_BODY: usize = 8 << 10;
/// What a compressed body may unpack to, as a multiple of what has come of it; text reaches ten, and a long run of one
/// letter a thousand. It counts from [`RATIO_FREE`] on, since a short body of little sense harms nobody.
const MAX_RATIO: usize = 100;
const RATIO_FREE: usize = 1 << 20;
/// What is decoded before other requests of the worker run: at most so much of the input, and so much of the output.
const MAX_INPUT_STEP: usize = 4 << 10;
const MAX_OUTPUT_STEP: usize = 32 << 10;
/// What is read of a body before other requests of the worker run.
const READ_QUOTA: usize = 128 << 10;

/// Where a request's body comes from.
pub trait BodySource {
    /// The length that was declared, where one was.
    fn declared_length(&self) -> Option<u64>;

    /// Appends what has come of the body to `into` and returns how much that is; 0 is the body's clean end. `into` is
    /// empty at first.
    ///
    /// # Errors
    /// [`BodyReadError`]
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut BodyBuffer,
    ) -> Poll<Result<usize, BodyReadError>>;
}

/// A body broke off, or its framing is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyReadError;

/// Bytes that request bodies may hold at once, over all workers. Cloning shares it.
#[derive(Clone, Debug)]
pub struct BufferBudget(Arc<AtomicUsize>);

impl BufferBudget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    fn take(&self, bytes: usize) -> bool {
        let left = |left: usize| left.checked_sub(bytes);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left)
            .is_ok()
    }
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct BufferPermit {
    budget: BufferBudget,
    taken: usize,
}

impl BufferPermit {
    fn none_of(budget: &BufferBudget) -> Self {
        Self {
            budget: budget.clone(),
            taken: 0,
        }
    }

    /// Takes more or gives back, so that it is for so many bytes.
    fn resize(&mut self, bytes: usize) -> Result<(), CollectError> {
        if bytes > self.taken {
            if !self.budget.take(bytes - self.taken) {
                return Err(CollectError::Overloaded);
            }
        } else {
            self.budget
                .0
                .fetch_add(self.taken - bytes, Ordering::Relaxed);
        }
        self.taken = bytes;
        Ok(())
    }
}

impl Drop for BufferPermit {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.taken, Ordering::Relaxed);
    }
}

/// A whole body, and its part of the budget.
#[derive(Debug)]
pub struct CollectedBody {
    body: BodyBuffer,
    received: usize,
    permit: BufferPermit,
}

impl CollectedBody {
    /// The body.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.body.bytes()
    }

    /// How many bytes came of it: fewer than it has where it was compressed.
    #[must_use]
    pub fn received(&self) -> usize {
        self.received
    }

    /// Frees the body and keeps its part of the budget: a copy is held elsewhere.
    #[must_use]
    pub fn into_permit(self) -> BufferPermit {
        self.permit
    }
}

/// Why a body was not collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectError {
    /// Longer than one body may be.
    TooLarge,
    /// More than all bodies together may hold.
    Overloaded,
    /// Nothing came for too long, or too little.
    Stalled,
    /// It broke off, or its framing is broken.
    Broken,
    /// It is not what its Content-Encoding says.
    Undecodable,
    /// It unpacks to more than text ever does.
    Inflated,
}

impl From<BodyReadError> for CollectError {
    fn from(BodyReadError: BodyReadError) -> Self {
        Self::Broken
    }
}

/// The limits a body is read under.
#[derive(Clone, Debug)]
pub struct BodyLimits {
    /// Of one body, in bytes.
    pub size: usize,
    /// Over all bodies.
    pub budget: BufferBudget,
    /// Between two pieces.
    pub idle: Duration,
}

/// Reads a body to its end. Trailers are dropped.
///
/// # Errors
/// [`CollectError`]; a declared length over the limit is refused before anything is read.
pub async fn collect<S: BodySource>(
    source: &mut S,
    limits: &BodyLimits,
    buffers: &BufferPool,
    timer: &TickTimer,
    entry: &TimerEntry,
) -> Result<CollectedBody, CollectError> {
    let declared = check_declared(source, limits)?;
    let mut reader = PieceReader::new(source, limits, timer, entry);
    let mut permit = BufferPermit::none_of(&limits.budget);
    let mut body = BodyBuffer::new(buffers);
    while reader.read(&mut body).await? > 0 {
        if body.len() > limits.size {
            return Err(CollectError::TooLarge);
        }
        permit.resize(body.len())?;
        if body.len() < declared {
            body.reserve(declared.min(TRUSTED_LENGTH).saturating_sub(body.len()));
        }
    }
    entry.clear_deadline();
    Ok(CollectedBody {
        received: body.len(),
        body,
        permit,
    })
}

/// Reads a compressed body to its end and decodes it on the way; what came is not held. Other requests of the worker run
/// between two short steps of that.
///
/// # Errors
/// [`CollectError`]; the size counts both of what comes and of what it unpacks to.
pub async fn collect_decoded<S: BodySource>(
    source: &mut S,
    coding: Coding,
    limits: &BodyLimits,
    buffers: &BufferPool,
    timer: &TickTimer,
    entry: &TimerEntry,
) -> Result<CollectedBody, CollectError> {
    check_declared(source, limits)?;
    let mut reader = PieceReader::new(source, limits, timer, entry);
    let mut permit = BufferPermit::none_of(&limits.budget);
    let mut decoder = Decoder::new(coding).ok_or(CollectError::Overloaded)?;
    permit.resize(decoder.memory())?;
    let mut piece = BodyBuffer::new(buffers);
    let mut whole = Vec::new();
    let mut received = 0;
    while reader.read(&mut piece).await? > 0 {
        received += piece.len();
        if received > limits.size {
            return Err(CollectError::TooLarge);
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
                return Err(CollectError::TooLarge);
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
    // What the decoder held is free again.
    permit.resize(whole.len())?;
    Ok(CollectedBody {
        body: BodyBuffer::of(buffers, whole),
        received,
        permit,
    })
}

/// The declared length, or 0, where it is within the limit.
fn check_declared<S: BodySource>(source: &S, limits: &BodyLimits) -> Result<usize, CollectError> {
    let declared = usize::try_from(source.declared_length().unwrap_or(0)).unwrap_or(usize::MAX);
    if declared > limits.size {
        return Err(CollectError::TooLarge);
    }
    Ok(declared)
}

/// Reads a body piece by piece, within its time.
struct PieceReader<'a, S> {
    source: &'a mut S,
    rate: RateLimit,
    timer: &'a TickTimer,
    entry: &'a TimerEntry,
    /// Bytes read since other requests ran.
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

    /// Appends the next piece and returns its length; 0 at the end.
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

/// How fast a body has to come: a piece in `idle`, and in each stretch of [`RATE_WINDOW`] times that as much as [`MIN_RATE`]
/// brings. Without the latter, a byte now and then would hold what has come of a body for years.
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

    /// Until when the next piece has to come.
    fn deadline(&self, now: Instant) -> Instant {
        self.period_end.min(now + self.idle)
    }

    /// The next stretch begins as soon as this one has brought enough.
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

    fn limits(size: usize, all: usize) -> BodyLimits {
        BodyLimits {
            size,
            budget: BufferBudget::new(all),
            idle: Duration::from_secs(30),
        }
    }

    /// A body that comes in these pieces.
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

    /// `count` pieces of `size` bytes, numbered, of undeclared length.
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
        collect(&mut body, limits, &buffers, &timer, &timer.entry()).await
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
        let too_large = Some(CollectError::TooLarge);
        assert_eq!(
            refused(whole(b"1234567".to_vec()), &limits(6, 99)).await,
            too_large
        );
        assert_eq!(refused(pieces(4, 2), &limits(7, 99)).await, too_large);
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
        // A piece in each 30 s, and 120 KiB in each 120 s.
        let mut rate = RateLimit::new(Duration::from_secs(30), start);
        assert_eq!(rate.deadline(at(0)), at(30));
        rate.received(1, at(29));
        assert_eq!(rate.deadline(at(29)), at(59));
        rate.received(119 << 10, at(110));
        assert_eq!(rate.deadline(at(110)), at(120));
        // What comes at the pace is waited for, and what came faster buys no rest afterwards.
        let mut rate = RateLimit::new(Duration::from_secs(30), start);
        rate.received(120 << 10, at(119));
        assert_eq!(rate.deadline(at(119)), at(149));
        rate.received(30 << 20, at(120));
        rate.received(1, at(149));
        assert_eq!(rate.deadline(at(239)), at(240));
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
        collect_decoded(&mut body, gzip, limits, &buffers, &timer, &entry).await
    }

    /// Text that shrinks, but not a hundredfold.
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
        assert_eq!(
            limits.budget.0.load(Ordering::Relaxed),
            (1 << 20) - data.len()
        );
        drop(collected);
        assert_eq!(limits.budget.0.load(Ordering::Relaxed), 1 << 20);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_limits_hold_for_what_a_body_unpacks_to_and_all_is_given_back() {
        let full = 64 << 20;
        let error = async |body: Vec<u8>, size: usize, all: usize| {
            let limits = limits(size, all);
            let error = decoded(body, &limits).await.map(|_| ()).unwrap_err();
            assert_eq!(limits.budget.0.load(Ordering::Relaxed), all);
            error
        };
        let body = || gzipped(&text(200_000));
        assert_eq!(error(body(), 199_999, full).await, CollectError::TooLarge);
        assert_eq!(
            error(body(), 200_000, 100_000).await,
            CollectError::Overloaded
        );
        assert_eq!(error(body(), 200_000, 1000).await, CollectError::Overloaded);
        // Shorter than what it unpacks to only by its members' heads.
        let empty = gzipped(b"").repeat(1000);
        assert_eq!(error(empty, 10_000, full).await, CollectError::TooLarge);
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
