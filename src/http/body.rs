//! A request's body, read whole under three limits: its own size, the size of all bodies held at once, and the time
//! between two of its pieces. What is checked and what is forwarded are these same bytes.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;

use super::clock::{Clock, Watch};

/// What is reserved for a body because it says that so much will come; the rest once it has come.
const ON_TRUST: usize = 256 << 10;

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
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.taken, Ordering::Relaxed);
    }
}

/// A whole body, and its share of the budget.
#[derive(Debug)]
pub struct Spooled {
    bytes: Bytes,
    share: Share,
}

impl Spooled {
    /// The body.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Gives up the body, but not yet its share: somebody else holds a copy.
    #[must_use]
    pub fn into_share(self) -> Share {
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
    /// Nothing came for too long.
    Stalled,
    /// It broke off, or its framing is broken.
    Broken,
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
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(piece) = next_piece(&mut body, limits.idle, clock, watch).await? {
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
    Ok(Spooled { bytes, share })
}

async fn next_piece<B>(
    body: &mut B,
    idle: Duration,
    clock: &Clock,
    watch: &Watch,
) -> Result<Option<Bytes>, SpoolFault>
where
    B: Body<Data = Bytes> + Unpin,
{
    watch.set_deadline(clock.now() + idle);
    poll_fn(|cx| {
        loop {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(piece) if piece.is_empty() => {}
                    Ok(piece) => return Poll::Ready(Ok(Some(piece))),
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
}
