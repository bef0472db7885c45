//! What gateways that share a database do one after the other.

/// What only one gateway does at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AdvisoryLock {
    /// Bring the schema forward.
    Migrate = 1,
    /// Add or delete audit rows.
    Audit = 2,
    /// Delete old rows.
    Delete = 3,
    /// Change people where a condition holds, such as that an owner is left.
    Condition = 4,
    /// Change keys.
    Keys = 5,
}

impl AdvisoryLock {
    /// "kgat", so that locks of other programs are others, and the lock.
    pub(crate) fn number(self) -> i64 {
        (0x6b67_6174_i64 << 32) | self as i64
    }
}
