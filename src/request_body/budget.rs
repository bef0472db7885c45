//! The memory that request bodies may use at once, over all workers, and the share of it that one key may hold.
//!
//! A key holds at most a quarter of the budget, or half of it while no other key holds any; one large body of it is always
//! let in where there is room. Small bodies have a reserve that large ones cannot use, so that a chat is answered while
//! others upload; of it a key has half without regard to what its large bodies hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::table::{BodyBytes, Entry};

/// Bodies up to this many bytes are small.
const SMALL: usize = 64 << 10;
/// The part of the budget that only small bodies may use: one byte in so many.
const RESERVE: usize = 8;

/// The number of bytes that request bodies may use at once. Clones share it.
#[derive(Clone, Debug)]
pub struct BufferBudget(Arc<BudgetCounters>);

#[derive(Debug)]
struct BudgetCounters {
    all: usize,
    /// What large bodies may use of it.
    for_large: usize,
    large: AtomicUsize,
    small: AtomicUsize,
}

/// There is no room for these bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverBudgetError;

impl BufferBudget {
    /// A budget of this many bytes, in which one body of up to `largest` bytes always fits.
    #[must_use]
    pub fn new(bytes: usize, largest: usize) -> Self {
        Self(Arc::new(BudgetCounters {
            all: bytes,
            for_large: (bytes - bytes / RESERVE).max(largest.min(bytes)),
            large: AtomicUsize::new(0),
            small: AtomicUsize::new(0),
        }))
    }

    /// Takes `more` bytes for a body that has `taken` of this size already.
    fn take(
        &self,
        size: BodySize,
        more: usize,
        taken: usize,
        of_key: &BodyBytes,
    ) -> Result<(), OverBudgetError> {
        let BudgetCounters { all, for_large, .. } = *self.0;
        let (large, small) = (self.held(BodySize::Large), self.held(BodySize::Small));
        let key_large = of_key.large.load(Ordering::Relaxed);
        let key_small = of_key.small.load(Ordering::Relaxed);
        let is_alone = large + small == key_large + key_small;
        let share = if is_alone { all / 2 } else { all / 4 };
        let is_in_share = key_large + key_small + more <= share;
        let fits = match size {
            BodySize::Large => {
                let is_only_one = key_large == taken;
                large + more <= for_large && (is_in_share || is_only_one)
            }
            BodySize::Small => {
                let is_only_one = key_large + key_small == taken;
                is_in_share || is_only_one || key_small + more <= all / RESERVE / 2
            }
        };
        // Two threads may both see the last room: a little more than the budget is no harm.
        if !fits || large + small + more > all {
            return Err(OverBudgetError);
        }
        self.0.of(size).fetch_add(more, Ordering::Relaxed);
        size.of(of_key).fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    fn give_back(&self, size: BodySize, bytes: usize, of_key: &BodyBytes) {
        size.of(of_key).fetch_sub(bytes, Ordering::Relaxed);
        self.0.of(size).fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that bodies of this size hold.
    pub(crate) fn held(&self, size: BodySize) -> usize {
        self.0.of(size).load(Ordering::Relaxed)
    }
}

impl BudgetCounters {
    fn of(&self, size: BodySize) -> &AtomicUsize {
        match size {
            BodySize::Large => &self.large,
            BodySize::Small => &self.small,
        }
    }
}

/// Which part of the budget a body is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodySize {
    /// Up to [`SMALL`] bytes.
    Small,
    Large,
}

impl BodySize {
    fn for_bytes(bytes: usize) -> Self {
        if bytes <= SMALL {
            Self::Small
        } else {
            Self::Large
        }
    }

    fn of(self, bytes: &BodyBytes) -> &AtomicUsize {
        match self {
            Self::Large => &bytes.large,
            Self::Small => &bytes.small,
        }
    }
}

/// A part of the budget, held by a body of a key. Dropping it returns the bytes.
#[derive(Debug)]
pub struct BufferPermit {
    budget: BufferBudget,
    key: Arc<Entry>,
    size: BodySize,
    taken: usize,
}

impl BufferPermit {
    pub(crate) fn empty(budget: &BufferBudget, key: &Arc<Entry>) -> Self {
        Self {
            budget: budget.clone(),
            key: Arc::clone(key),
            size: BodySize::Small,
            taken: 0,
        }
    }

    /// Takes bytes from the budget or returns some, until the permit is for `bytes`.
    pub(crate) fn resize(&mut self, bytes: usize) -> Result<(), OverBudgetError> {
        let of_key = self.key.body_bytes();
        let size = BodySize::for_bytes(bytes);
        if size != self.size {
            self.budget.take(size, bytes, 0, of_key)?;
            self.budget.give_back(self.size, self.taken, of_key);
        } else if bytes > self.taken {
            let more = bytes - self.taken;
            self.budget.take(size, more, self.taken, of_key)?;
        } else {
            self.budget.give_back(size, self.taken - bytes, of_key);
        }
        (self.size, self.taken) = (size, bytes);
        Ok(())
    }
}

impl Drop for BufferPermit {
    fn drop(&mut self) {
        let of_key = self.key.body_bytes();
        self.budget.give_back(self.size, self.taken, of_key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::key::Key;
    use crate::policy::key::fixture::key_fields;

    fn key(id: &str) -> Arc<Entry> {
        Arc::new(Entry::from(Key::from(key_fields(id))))
    }

    fn body(budget: &BufferBudget, key: &Arc<Entry>, bytes: usize) -> Option<BufferPermit> {
        let mut permit = BufferPermit::empty(budget, key);
        permit.resize(bytes).ok().map(|()| permit)
    }

    const MIB: usize = 1 << 20;

    #[test]
    fn a_key_holds_half_of_the_budget_alone_and_a_quarter_beside_others() {
        let (budget, one, other) = (BufferBudget::new(64 * MIB, MIB), key("one"), key("other"));
        let mut held: Vec<_> = (0..64).filter_map(|_| body(&budget, &one, MIB)).collect();
        assert_eq!(held.len(), 32);
        let theirs: Vec<_> = (0..64).filter_map(|_| body(&budget, &other, MIB)).collect();
        assert_eq!(theirs.len(), 16);
        // What it held alone it keeps; no more is let in.
        assert!(body(&budget, &one, MIB).is_none());
        held.truncate(15);
        assert!(body(&budget, &one, MIB).is_some());
        drop((held, theirs));
        assert_eq!(budget.held(BodySize::Large), 0);
        assert_eq!(one.body_bytes().large.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_large_body_of_a_key_is_let_in_whatever_its_share() {
        let (budget, one) = (BufferBudget::new(8 * MIB, MIB), key("one"));
        let mut permit = BufferPermit::empty(&budget, &one);
        for bytes in 1..=7 {
            assert_eq!(permit.resize(bytes * MIB), Ok(()));
        }
        assert_eq!(permit.resize(8 * MIB), Err(OverBudgetError));
        assert!(body(&budget, &one, SMALL + 1).is_none());
        // Its small bodies do not wait for it.
        assert!(body(&budget, &one, SMALL).is_some());
        assert_eq!(permit.resize(SMALL), Ok(()));
        assert_eq!(
            (budget.held(BodySize::Large), budget.held(BodySize::Small)),
            (0, SMALL)
        );
        drop(permit);
        assert_eq!(budget.held(BodySize::Small), 0);
    }

    #[test]
    fn the_largest_body_fits_into_an_empty_budget() {
        let budget = BufferBudget::new(MIB, MIB);
        assert!(body(&budget, &key("one"), MIB).is_some());
    }

    #[test]
    fn small_bodies_have_a_reserve_and_a_key_half_of_it() {
        let budget = BufferBudget::new(8 * MIB, MIB);
        let large: Vec<_> = (0..8)
            .map(|at| body(&budget, &key(&at.to_string()), MIB))
            .collect();
        assert_eq!(large.iter().filter(|permit| permit.is_some()).count(), 7);
        let (one, other) = (key("one"), key("other"));
        let held: Vec<_> = (0..20).filter_map(|_| body(&budget, &one, SMALL)).collect();
        // A quarter of the budget is more than is left.
        assert_eq!(held.len(), 16);
        assert!(body(&budget, &other, 1).is_none());
        drop(held);
        assert!(body(&budget, &other, SMALL).is_some());
        assert!(body(&budget, &other, SMALL + 1).is_none());
    }
}
