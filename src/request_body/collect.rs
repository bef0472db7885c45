//! A request's body, read whole under its limits: its own size, the size of all bodies held at once, the time between
//! two of its pieces, and a pace that the slowest honest uplink keeps. A compressed one is decoded as it comes, and the
//! same limits hold for what it unpacks to. What is checked and what is forwarded are these same bytes.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body::Body;

use crate::request_body::coding::{Coding, Decoder};
use crate::runtime::clock::{Clock, Watch};

/// What is reserved for a body because it says that so much will come; the rest once it has come.
const ON_TRUST: usize = 256 << 10;
/// The slowest that a body may come, in bytes a second: less than half of what GPRS carries. It is measured over so many
/// times the longest pause, since pauses are allowed.
const SLOWEST: u64 = 1024;
const STRETCH: u32 = 4;
/// A body up to this length leaves in one buffer with its head, and is not worth an account of its own after that.
pub const SMALL: usize = 8 << 10;
/// What a compressed body may unpack to, as a multiple of what has come of it; text reaches ten, and a long run of one
/// letter a thousand. It counts from [`RATIO_FREE`] on, since a short body of little sense harms nobody.
const MOST_RATIO: usize = 100;
const RATIO_FREE: usize = 1 << 20;
/// What is decoded before others have their turn: at most so much of the input, and so much of the output.
const TAKEN_AT_ONCE: usize = 4 << 10;
const MADE_AT_ONCE: usize = 32 << 10;

/// Bytes that request bodies may hold at once, over all workers. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Budget(Arc<AtomicUsize>);

impl Budget {
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
pub struct Share {
    budget: Budget,
    taken: usize,
}

impl Share {
    fn grow(&mut self, bytes: usize) -> bool {
        let granted = self.budget.take(bytes);
        if granted {
            self.taken += bytes;
        }
        granted
    }

    /// Takes or gives back, so that it is so large.
    fn resize(&mut self, bytes: usize) -> bool {
        if bytes > self.taken {
            return self.grow(bytes - self.taken);
        }
        self.budget
            .0
            .fetch_add(self.taken - bytes, Ordering::Relaxed);
        self.taken = bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.taken, Ordering::Relaxed);
    }
}

/// A whole body, and its share of the budget. The share of all but a small one is given back when the last clone of
/// the bytes is dropped: an upstream that answers early leaves some of them to be sent yet.
#[derive(Debug)]
pub struct Spooled {
    bytes: Bytes,
    received: usize,
    share: Option<Share>,
}

/// Bytes that know their share of the budget.
struct Accounted {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Accounted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Spooled {
    fn new(bytes: Bytes, received: usize, share: Share) -> Self {
        if bytes.len() <= SMALL {
            return Self {
                bytes,
                received,
                share: Some(share),
            };
        }
        Self {
            bytes: Bytes::from_owner(Accounted {
                bytes,
                _share: share,
            }),
            received,
            share: None,
        }
    }

    /// The body.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many bytes came of it: fewer than it has where it was compressed.
    #[must_use]
    pub fn received(&self) -> usize {
        self.received
    }

    /// Gives up the body, but not yet the share of a small one: somebody else holds a copy. That of a larger one is
    /// held by its bytes.
    #[must_use]
    pub fn into_share(self) -> Option<Share> {
        self.share
    }
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpoolFault {
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

/// The limits a body is read under.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Of one body, in bytes.
    pub size: usize,
    /// Over all bodies.
    pub budget: Budget,
    /// Between two pieces.
    pub idle: Duration,
}

/// Reads a body to its end. Trailers are dropped.
///
/// # Errors
/// [`SpoolFault`]; a declared length over the limit is refused before anything is read.
pub async fn spool<B>(
    mut body: B,
    limits: &Limits,
    clock: &Clock,
    watch: &Watch,
) -> Result<Spooled, SpoolFault>
where
    B: Body<Data = Bytes> + Unpin,
{
    let declared = body.size_hint().exact().unwrap_or(0);
    if declared > limits.size as u64 {
        return Err(SpoolFault::TooLarge);
    }
    let mut share = Share {
        budget: limits.budget.clone(),
        taken: 0,
    };
    let mut pace = Pace::new(limits.idle, clock.now());
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(piece) = next_piece(&mut body, &mut pace, clock, watch).await? {
        if share.taken + piece.len() > limits.size {
            return Err(SpoolFault::TooLarge);
        }
        if !share.grow(piece.len()) {
            return Err(SpoolFault::Overloaded);
        }
        // A body that comes in one piece, as most do, is not copied.
        if share.taken == piece.len() {
            first = piece;
            continue;
        }
        if whole.is_empty() {
            let declared = usize::try_from(declared).unwrap_or(0);
            whole.reserve(declared.min(ON_TRUST).max(first.len() + piece.len()));
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&piece);
    }
    watch.clear_deadline();
    let bytes = if whole.is_empty() {
        first
    } else {
        whole.freeze()
    };
    let received = bytes.len();
    Ok(Spooled::new(bytes, received, share))
}

/// Reads a compressed body to its end and decodes it on the way; what came is not held. Between two short steps of
/// that, other requests of the worker have their turn.
///
/// # Errors
/// [`SpoolFault`]; the size counts both of what comes and of what it unpacks to.
pub async fn spool_decoded<B>(
    mut body: B,
    coding: Coding,
    limits: &Limits,
    clock: &Clock,
    watch: &Watch,
) -> Result<Spooled, SpoolFault>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.size_hint().exact().unwrap_or(0) > limits.size as u64 {
        return Err(SpoolFault::TooLarge);
    }
    let mut share = Share {
        budget: limits.budget.clone(),
        taken: 0,
    };
    let mut hold = |made: usize, decoder: &Decoder| {
        let granted = share.resize(made + decoder.memory());
        granted.then_some(()).ok_or(SpoolFault::Overloaded)
    };
    let mut decoder = Decoder::new(coding).ok_or(SpoolFault::Overloaded)?;
    hold(0, &decoder)?;
    let mut pace = Pace::new(limits.idle, clock.now());
    let mut whole = Vec::new();
    let mut received = 0;
    while let Some(piece) = next_piece(&mut body, &mut pace, clock, watch).await? {
        received += piece.len();
        if received > limits.size {
            return Err(SpoolFault::TooLarge);
        }
        let mut rest = &piece[..];
        loop {
            let before = whole.len();
            whole.resize(before + MADE_AT_ONCE, 0);
            let input = &rest[..rest.len().min(TAKEN_AT_ONCE)];
            let step = decoder.step(input, &mut whole[before..]);
            let step = step.map_err(|_| SpoolFault::Undecodable)?;
            whole.truncate(before + step.made);
            rest = &rest[step.taken..];
            if whole.len() > limits.size {
                return Err(SpoolFault::TooLarge);
            }
            let decoded = received - rest.len();
            if whole.len() > RATIO_FREE && whole.len() / MOST_RATIO > decoded {
                return Err(SpoolFault::Inflated);
            }
            hold(whole.len(), &decoder)?;
            if rest.is_empty() && step.made < MADE_AT_ONCE {
                break;
            }
            if step.taken == 0 && step.made == 0 {
                return Err(SpoolFault::Undecodable);
            }
            tokio::task::yield_now().await;
        }
    }
    watch.clear_deadline();
    if !decoder.is_complete() {
        return Err(SpoolFault::Undecodable);
    }
    drop(decoder);
    whole.shrink_to_fit();
    // What the decoder held is free again.
    share.resize(whole.len());
    Ok(Spooled::new(whole.into(), received, share))
}

/// How fast a body has to come: a piece in `idle`, and in each stretch of [`STRETCH`] times that as much as [`SLOWEST`]
/// brings. Without the latter, a byte now and then would hold what has come of a body for years.
struct Pace {
    idle: Duration,
    /// What a stretch has to bring, and what it has brought.
    wanted: usize,
    come: usize,
    until: Instant,
}

impl Pace {
    fn new(idle: Duration, now: Instant) -> Self {
        let stretch = u64::try_from((STRETCH * idle).as_millis()).unwrap_or(u64::MAX);
        let wanted = stretch.saturating_mul(SLOWEST) / 1000;
        Self {
            idle,
            wanted: usize::try_from(wanted).unwrap_or(usize::MAX),
            come: 0,
            until: now + STRETCH * idle,
        }
    }

    /// Until when the next piece has to come.
    fn deadline(&self, now: Instant) -> Instant {
        self.until.min(now + self.idle)
    }

    /// The next stretch begins as soon as this one has brought enough.
    fn received(&mut self, bytes: usize, now: Instant) {
        self.come += bytes;
        if self.come >= self.wanted {
            self.come = 0;
            self.until = now + STRETCH * self.idle;
        }
    }
}

async fn next_piece<B>(
    body: &mut B,
    pace: &mut Pace,
    clock: &Clock,
    watch: &Watch,
) -> Result<Option<Bytes>, SpoolFault>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.is_end_stream() {
        return Ok(None);
    }
    watch.set_deadline(pace.deadline(clock.now()));
    poll_fn(|cx| {
        loop {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(piece) if piece.is_empty() => {}
                    Ok(piece) => {
                        pace.received(piece.len(), clock.now());
                        return Poll::Ready(Ok(Some(piece)));
                    }
                    Err(_trailers) => {}
                },
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(SpoolFault::Broken)),
                Poll::Ready(None) => return Poll::Ready(Ok(None)),
                Poll::Pending if watch.is_late(clock.now()) => {
                    return Poll::Ready(Err(SpoolFault::Stalled));
                }
                Poll::Pending => {
                    watch.register(cx);
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    fn limits(size: usize, all: usize) -> Limits {
        Limits {
            size,
            budget: Budget::new(all),
            idle: Duration::from_secs(30),
        }
    }

    /// A body of `count` pieces, of undeclared length.
    struct Pieces(std::ops::Range<u8>, usize);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
            let size = self.1;
            Poll::Ready(
                self.0
                    .next()
                    .map(|at| Ok(http_body::Frame::data(vec![at; size].into()))),
            )
        }
    }

    fn pieces(count: u8, size: usize) -> Pieces {
        Pieces(0..count, size)
    }

    async fn read(
        body: impl Body<Data = Bytes> + Unpin,
        limits: &Limits,
    ) -> Result<Bytes, SpoolFault> {
        let clock = Clock::default();
        spool(body, limits, &clock, &clock.watch())
            .await
            .map(|spooled| spooled.bytes.clone())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn pieces_become_one_body_in_their_order() {
        let body = read(pieces(3, 2), &limits(6, 6)).await.unwrap();
        assert_eq!(&body[..], [0, 0, 1, 1, 2, 2]);
        assert!(read(pieces(0, 0), &limits(6, 6)).await.unwrap().is_empty());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_body_over_its_limit_is_refused_declared_or_not() {
        assert_eq!(
            read(Full::new(Bytes::from_static(b"1234567")), &limits(6, 99)).await,
            Err(SpoolFault::TooLarge)
        );
        assert_eq!(
            read(pieces(4, 2), &limits(7, 99)).await,
            Err(SpoolFault::TooLarge)
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_budget_over_all_bodies_is_kept_and_given_back() {
        let limits = limits(10, 10);
        let clock = Clock::default();
        let held = spool(pieces(2, 4), &limits, &clock, &clock.watch())
            .await
            .unwrap();
        assert_eq!(
            read(pieces(2, 2), &limits).await,
            Err(SpoolFault::Overloaded)
        );
        drop(held);
        assert!(read(pieces(2, 5), &limits).await.is_ok());
        assert!(read(pieces(2, 5), &limits).await.is_ok());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_bodys_share_is_held_until_its_last_clone_is_gone() {
        let limits = limits(64 << 10, 64 << 10);
        let clock = Clock::default();
        let watch = clock.watch();
        let spooled = spool(pieces(2, 20 << 10), &limits, &clock, &watch).await;
        let clone = spooled.unwrap().bytes().clone();
        let other = || read(pieces(2, 20 << 10), &limits);
        assert_eq!(other().await, Err(SpoolFault::Overloaded));
        drop(clone);
        assert!(other().await.is_ok());
    }

    #[test]
    fn a_body_keeps_its_pace_or_is_given_up() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        // A piece in each 30 s, and 120 KiB in each 120 s.
        let mut pace = Pace::new(Duration::from_secs(30), start);
        assert_eq!(pace.deadline(at(0)), at(30));
        pace.received(1, at(29));
        assert_eq!(pace.deadline(at(29)), at(59));
        pace.received(119 << 10, at(110));
        assert_eq!(pace.deadline(at(110)), at(120));
        // What comes at the pace is waited for, and what came faster buys no rest afterwards.
        let mut pace = Pace::new(Duration::from_secs(30), start);
        pace.received(120 << 10, at(119));
        assert_eq!(pace.deadline(at(119)), at(149));
        pace.received(30 << 20, at(120));
        pace.received(1, at(149));
        assert_eq!(pace.deadline(at(239)), at(240));
    }

    fn gzipped(data: &[u8]) -> Bytes {
        let mut out = Vec::new();
        let mut encoder = flate2::write::GzEncoder::new(&mut out, flate2::Compression::default());
        std::io::Write::write_all(&mut encoder, data).unwrap();
        encoder.finish().unwrap();
        out.into()
    }

    async fn decoded(body: Bytes, limits: &Limits) -> Result<Spooled, SpoolFault> {
        let clock = Clock::default();
        spool_decoded(
            Full::new(body),
            Coding::Gzip,
            limits,
            &clock,
            &clock.watch(),
        )
        .await
    }

    /// Text that shrinks, but not a hundredfold.
    fn text(length: usize) -> Vec<u8> {
        let numbers = (0_u32..)
            .flat_map(|number| format!("{} ", number.wrapping_mul(2_654_435_761)).into_bytes());
        numbers.take(length).collect()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_compressed_body_is_decoded_whole_and_its_decoder_paid_back() {
        let data = text(500_000);
        let limits = limits(500_000, 1 << 20);
        let spooled = decoded(gzipped(&data), &limits).await.unwrap();
        assert_eq!(spooled.bytes(), &data);
        assert_eq!(spooled.received(), gzipped(&data).len());
        assert_eq!(
            limits.budget.0.load(Ordering::Relaxed),
            (1 << 20) - data.len()
        );
        drop(spooled);
        assert_eq!(limits.budget.0.load(Ordering::Relaxed), 1 << 20);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_limits_hold_for_what_a_body_unpacks_to_and_all_is_given_back() {
        let full = 64 << 20;
        let fault = async |body: Bytes, size: usize, all: usize| {
            let limits = limits(size, all);
            let fault = decoded(body, &limits).await.map(|_| ()).unwrap_err();
            assert_eq!(limits.budget.0.load(Ordering::Relaxed), all);
            fault
        };
        let body = || gzipped(&text(200_000));
        assert_eq!(fault(body(), 199_999, full).await, SpoolFault::TooLarge);
        assert_eq!(
            fault(body(), 200_000, 100_000).await,
            SpoolFault::Overloaded
        );
        assert_eq!(fault(body(), 200_000, 1000).await, SpoolFault::Overloaded);
        // Shorter than what it unpacks to only by its members' heads.
        let empty = gzipped(b"").repeat(1000).into();
        assert_eq!(fault(empty, 10_000, full).await, SpoolFault::TooLarge);
        let zeros = gzipped(&vec![b'0'; 8 << 20]);
        assert_eq!(fault(zeros, 32 << 20, full).await, SpoolFault::Inflated);
        let cut = body().slice(..1000);
        assert_eq!(fault(cut, full, full).await, SpoolFault::Undecodable);
        assert_eq!(
            fault(Bytes::new(), full, full).await,
            SpoolFault::Undecodable
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_short_body_may_unpack_to_more_than_its_ratio() {
        let zeros = vec![b'0'; 1 << 20];
        let spooled = decoded(gzipped(&zeros), &limits(1 << 20, 8 << 20)).await;
        assert_eq!(spooled.unwrap().bytes(), &zeros);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn others_have_their_turn_while_a_body_is_decoded() {
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
