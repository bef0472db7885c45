//! Locks a mutex, also after a panic of a thread that held it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A panic leaves what this folder locks usable: lines stay lines, and a counter is at most one short.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
