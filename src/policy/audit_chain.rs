//! The chain of the audit rows, by which a later change of a row is found.
//!
//! Each row's hash covers all of its fields and the hash of the row before it, under a secret key. Whoever has not that
//! key can neither write a row that passes, nor change, remove or exchange one unnoticed. Old rows are deleted up to a
//! row number; a `cut` row, itself in the chain, says which number that was and which hash the row had.

use crate::policy::audit::{AuditAction, AuditEntry, AuditMark, AuditRow, ChangeOrigin};

/// The secret key of the hashes.
#[derive(Clone, Copy)]
pub struct ChainKey([u8; 32]);

impl std::fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

impl ChainKey {
    /// A key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The row of an entry behind `last`.
    #[must_use]
    pub fn row(&self, entry: &AuditEntry, last: &AuditMark) -> AuditRow {
        let AuditEntry {
            at,
            origin,
            action,
            target,
            account,
            before,
            after,
        } = entry.clone();
        let ChangeOrigin {
            actor,
            via,
            address,
            request_id,
        } = origin;
        let mut row = AuditRow {
            n: last.n.saturating_add(1),
            at,
            actor,
            via: via.label().to_owned(),
            action: action.label().to_owned(),
            target,
            account,
            before,
            after,
            address,
            request_id,
            previous_hash: last.hash.clone(),
            hash: String::new(),
        };
        row.hash = self.hash_as(&row, row.n);
        row
    }

    /// Whether the row's hash is that of its fields.
    #[must_use]
    pub fn admits(&self, row: &AuditRow) -> bool {
        self.hash_as(row, row.n) == row.hash
    }

    /// The hash that the row would have under this number.
    fn hash_as(&self, row: &AuditRow, n: i64) -> String {
        blake3::keyed_hash(&self.0, &canonical(row, n))
            .to_hex()
            .to_string()
    }
}

/// All fields of a row but its hash, as bytes that no other fields have: numbers in eight bytes, texts behind their
/// length, and a byte that tells an absent text from an empty one.
fn canonical(row: &AuditRow, n: i64) -> Vec<u8> {
    let AuditRow {
        n: _,
        at,
        actor,
        via,
        action,
        target,
        account,
        before,
        after,
        address,
        request_id,
        previous_hash,
        hash: _,
    } = row;
    // Rows without an account have the form of those from before there were accounts.
    let mut bytes = match account {
        None => b"keygate audit 1\n".to_vec(),
        Some(_) => b"keygate audit 2\n".to_vec(),
    };
    bytes.extend_from_slice(&n.to_be_bytes());
    bytes.extend_from_slice(&at.to_be_bytes());
    for text in [
        Some(actor),
        Some(via),
        Some(action),
        target.as_ref(),
        before.as_ref(),
        after.as_ref(),
        address.as_ref(),
        request_id.as_ref(),
        Some(previous_hash),
    ] {
        bytes.push(u8::from(text.is_some()));
        if let Some(text) = text {
            add_text(text, &mut bytes);
        }
    }
    if let Some(account) = account {
        add_text(account, &mut bytes);
    }
    bytes
}

fn add_text(text: &str, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// The texts `before` and `after` of a cut: up to which row all were deleted, and that row's hash.
#[must_use]
pub fn cut_text(mark: &AuditMark) -> String {
    format!("{{\"hash\":\"{}\",\"up_to\":{}}}", mark.hash, mark.n)
}

fn cut_of(row: &AuditRow) -> Option<AuditMark> {
    if row.action != AuditAction::Cut.label() {
        return None;
    }
    let (hash, up_to) = row
        .after
        .as_deref()?
        .strip_prefix("{\"hash\":\"")?
        .strip_suffix('}')?
        .split_once("\",\"up_to\":")?;
    Some(AuditMark {
        n: up_to.parse().ok()?,
        hash: hash.to_owned(),
    })
}

/// What is wrong with a chain, at its first wrong row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainBreak {
    /// A row is not as it was written.
    Changed {
        /// Its number.
        n: i64,
    },
    /// Two rows stand in each other's place.
    Swapped {
        /// The first.
        n: i64,
        /// The other.
        with: i64,
    },
    /// Rows are missing between others.
    Missing {
        /// The first one.
        n: i64,
        /// The last one.
        to: i64,
    },
    /// The newest rows are missing.
    MissingAtEnd {
        /// The first one.
        n: i64,
    },
    /// The oldest rows are missing, and no cut says that they were deleted.
    CutWithoutMark {
        /// The last one.
        n: i64,
    },
}

impl ChainBreak {
    /// The number of the first wrong row.
    #[must_use]
    pub fn n(&self) -> i64 {
        match self {
            Self::Changed { n }
            | Self::Swapped { n, .. }
            | Self::Missing { n, .. }
            | Self::MissingAtEnd { n }
            | Self::CutWithoutMark { n } => *n,
        }
    }

    /// Its name in the admin API.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Changed { .. } => "changed_row",
            Self::Swapped { .. } => "swapped_rows",
            Self::Missing { .. } => "missing_rows",
            Self::MissingAtEnd { .. } => "missing_at_end",
            Self::CutWithoutMark { .. } => "cut_without_mark",
        }
    }
}

impl std::fmt::Display for ChainBreak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Changed { n } => write!(f, "row {n} is not as it was written"),
            Self::Swapped { n, with } => {
                write!(f, "rows {n} and {with} stand in each other's place")
            }
            Self::Missing { n, to } if n == to => write!(f, "row {n} is missing"),
            Self::Missing { n, to } => write!(f, "rows {n} to {to} are missing"),
            Self::MissingAtEnd { n } => write!(f, "row {n} and all behind it are missing"),
            Self::CutWithoutMark { n } => write!(
                f,
                "the rows up to {n} are missing, and no cut says that the gateway deleted them"
            ),
        }
    }
}

/// Looks at all rows in their order, and finds the first that is wrong.
#[derive(Debug)]
pub struct ChainCheck {
    key: ChainKey,
    rows: u64,
    first: Option<i64>,
    last: AuditMark,
    /// What the first row follows: it needs a cut unless that is nothing.
    begin: AuditMark,
    cut: Option<AuditMark>,
    broken: Option<ChainBreak>,
    /// The first row that is not as it was written. It may stand in the place of a later one.
    changed: Option<AuditRow>,
}

/// The result of a [`ChainCheck`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainReport {
    /// How many rows there are.
    pub rows: u64,
    /// The number of the first one.
    pub first: Option<i64>,
    /// The last row up to which all is as it was written.
    pub intact_to: AuditMark,
    /// The first wrong row; None: the chain is intact.
    pub broken: Option<ChainBreak>,
}

impl ChainCheck {
    /// A check with the key of the hashes.
    #[must_use]
    pub fn new(key: ChainKey) -> Self {
        Self {
            key,
            rows: 0,
            first: None,
            last: AuditMark::origin(),
            begin: AuditMark::origin(),
            cut: None,
            broken: None,
            changed: None,
        }
    }

    /// Looks at the next row.
    pub fn visit(&mut self, row: AuditRow) {
        self.rows += 1;
        if self.first.is_none() {
            self.first = Some(row.n);
            self.begin = AuditMark {
                n: row.n.saturating_sub(1),
                hash: row.previous_hash.clone(),
            };
            if row.n != 1 {
                self.last = self.begin.clone();
            }
        }
        if self.broken.is_some() {
            self.look_for_swap(&row);
            return;
        }
        let expected = self.last.n.saturating_add(1);
        if row.n != expected {
            let to = row.n.saturating_sub(1);
            self.broken = Some(ChainBreak::Missing { n: expected, to });
            return;
        }
        if !self.key.admits(&row) || row.previous_hash != self.last.hash {
            self.broken = Some(ChainBreak::Changed { n: row.n });
            self.changed = Some(row);
            return;
        }
        self.cut = cut_of(&row).or(self.cut.take());
        self.last = AuditMark {
            n: row.n,
            hash: row.hash,
        };
    }

    fn look_for_swap(&mut self, row: &AuditRow) {
        let Some(changed) = &self.changed else {
            return;
        };
        let is_exchanged = self.key.hash_as(changed, row.n) == changed.hash
            && self.key.hash_as(row, changed.n) == row.hash;
        if is_exchanged {
            let (n, with) = (changed.n, row.n);
            self.broken = Some(ChainBreak::Swapped { n, with });
            self.changed = None;
        }
    }

    /// The result. `head`: the newest row that the gateway wrote, as it remembers it.
    #[must_use]
    pub fn finish(self, head: &AuditMark) -> ChainReport {
        let mut broken = self.broken;
        // A cut that a broken chain hides is not missed: the break is what is wrong.
        if self.begin.n > 0 && broken.is_none() && self.cut.as_ref() != Some(&self.begin) {
            broken = Some(ChainBreak::CutWithoutMark { n: self.begin.n });
        }
        if broken.is_none() && self.last.n < head.n {
            broken = Some(ChainBreak::MissingAtEnd { n: self.last.n + 1 });
        }
        if broken.is_none() && self.last.n == head.n && self.last.hash != head.hash {
            broken = Some(ChainBreak::Changed { n: head.n });
        }
        ChainReport {
            rows: self.rows,
            first: self.first,
            intact_to: self.last,
            broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::audit::ChangeVia;

    const KEY: ChainKey = ChainKey([7; 32]);

    fn entry(number: i64) -> AuditEntry {
        AuditEntry {
            at: 1_800_000_000_000 + number,
            origin: ChangeOrigin {
                actor: "uid 1000".to_owned(),
                via: ChangeVia::Socket,
                address: None,
                request_id: Some(format!("r{number}")),
            },
            action: AuditAction::Change,
            target: Some("key_1".to_owned()),
            account: None,
            before: Some("{\"disabled\":false}".to_owned()),
            after: Some("{\"disabled\":true}".to_owned()),
        }
    }

    fn chain(length: i64) -> Vec<AuditRow> {
        let mut last = AuditMark::origin();
        let mut rows = Vec::new();
        for number in 1..=length {
            let row = KEY.row(&entry(number), &last);
            last = mark(&row);
            rows.push(row);
        }
        rows
    }

    fn mark(row: &AuditRow) -> AuditMark {
        AuditMark {
            n: row.n,
            hash: row.hash.clone(),
        }
    }

    fn check(rows: &[AuditRow], head: &AuditMark) -> ChainReport {
        let mut check = ChainCheck::new(KEY);
        for row in rows {
            check.visit(row.clone());
        }
        check.finish(head)
    }

    fn broken(rows: &[AuditRow]) -> Option<ChainBreak> {
        check(rows, &AuditMark::origin()).broken
    }

    #[test]
    fn a_chain_as_it_was_written_is_intact() {
        let rows = chain(5);
        let report = check(&rows, &mark(&rows[4]));
        assert_eq!(report.broken, None);
        assert_eq!((report.rows, report.first), (5, Some(1)));
        assert_eq!(report.intact_to, mark(&rows[4]));
        assert_eq!(broken(&[]), None);
    }

    #[test]
    fn the_hash_of_a_row_stays_the_same_in_all_versions() {
        // Rows that were written by one version must be found intact by the next.
        let row = KEY.row(&entry(1), &AuditMark::origin());
        assert_eq!(
            row.hash,
            "ec7ec77ba5c672b8de1f1d99c14517ea1689b7d52271e3750f7babbc4efff707"
        );
    }

    #[test]
    fn every_field_of_a_row_is_covered_by_its_hash() {
        let row = KEY.row(&entry(1), &AuditMark::origin());
        let changes: [fn(&mut AuditRow); 16] = [
            |row| row.n = 2,
            |row| row.at += 1,
            |row| row.actor.push('0'),
            |row| row.via = "api".to_owned(),
            |row| row.action = "delete".to_owned(),
            |row| row.target = None,
            |row| row.target = Some(String::new()),
            |row| row.before = None,
            |row| row.before = Some("{}".to_owned()),
            |row| row.after = None,
            |row| std::mem::swap(&mut row.before, &mut row.after),
            |row| row.address = Some(String::new()),
            |row| row.request_id = None,
            |row| row.previous_hash = "1".repeat(64),
            |row| row.hash = "0".repeat(64),
            // The same characters, at another border between two fields.
            |row| {
                row.actor = "uid 1000s".to_owned();
                row.via = "ocket".to_owned();
            },
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut changed = row.clone();
            change(&mut changed);
            assert!(!KEY.admits(&changed), "change {at}");
        }
        assert!(!ChainKey::new([8; 32]).admits(&row));
        let of_account = |account: &str| AuditEntry {
            account: Some(account.to_owned()),
            ..entry(1)
        };
        let row = KEY.row(&of_account("acme"), &AuditMark::origin());
        assert!(KEY.admits(&row));
        for account in [None, Some(String::new()), Some("other".to_owned())] {
            let changed = AuditRow {
                account,
                ..row.clone()
            };
            assert!(!KEY.admits(&changed));
        }
    }

    #[test]
    fn a_row_without_an_account_has_the_hash_that_older_versions_wrote() {
        let row = KEY.row(&entry(1), &AuditMark::origin());
        assert_eq!(
            row.hash,
            "ec7ec77ba5c672b8de1f1d99c14517ea1689b7d52271e3750f7babbc4efff707"
        );
    }

    #[test]
    fn a_changed_row_is_named() {
        let mut rows = chain(5);
        rows[2].actor = "uid 0".to_owned();
        assert_eq!(broken(&rows), Some(ChainBreak::Changed { n: 3 }));
        let report = check(&rows, &AuditMark::origin());
        assert_eq!(report.intact_to.n, 2);
    }

    #[test]
    fn a_row_that_does_not_follow_the_one_before_is_named() {
        let mut rows = chain(5);
        let other = KEY.row(&entry(99), &mark(&rows[1]));
        rows[2] = other;
        assert_eq!(broken(&rows), Some(ChainBreak::Changed { n: 4 }));
    }

    #[test]
    fn missing_rows_are_named() {
        let mut rows = chain(6);
        rows.remove(2);
        assert_eq!(broken(&rows), Some(ChainBreak::Missing { n: 3, to: 3 }));
        rows.remove(2);
        assert_eq!(broken(&rows), Some(ChainBreak::Missing { n: 3, to: 4 }));
        let rows = chain(6);
        let report = check(&rows[..4], &mark(&rows[5]));
        assert_eq!(report.broken, Some(ChainBreak::MissingAtEnd { n: 5 }));
        let report = check(&[], &mark(&rows[5]));
        assert_eq!(report.broken, Some(ChainBreak::MissingAtEnd { n: 1 }));
    }

    #[test]
    fn a_swapped_pair_is_named() {
        for (one, other) in [(1, 2), (0, 5), (2, 4)] {
            let mut rows = chain(6);
            rows.swap(one, other);
            let n = rows[one].n;
            rows[one].n = rows[other].n;
            rows[other].n = n;
            let expected = ChainBreak::Swapped {
                n: rows[one].n,
                with: rows[other].n,
            };
            assert_eq!(broken(&rows), Some(expected));
        }
    }

    #[test]
    fn the_oldest_rows_may_be_missing_where_a_cut_says_so() {
        let mut rows = chain(5);
        assert_eq!(
            broken(&rows[2..]),
            Some(ChainBreak::CutWithoutMark { n: 2 })
        );
        let cut = |up_to: &AuditMark, last: &AuditRow| {
            let entry = AuditEntry {
                action: AuditAction::Cut,
                origin: ChangeOrigin::gateway(),
                target: None,
                before: None,
                after: Some(cut_text(up_to)),
                ..entry(6)
            };
            KEY.row(&entry, &mark(last))
        };
        rows.push(cut(&mark(&rows[1]), &rows[4]));
        assert_eq!(broken(&rows[2..]), None);
        assert_eq!(
            broken(&rows[1..]),
            Some(ChainBreak::CutWithoutMark { n: 1 })
        );
        assert_eq!(
            broken(&rows[3..]),
            Some(ChainBreak::CutWithoutMark { n: 3 })
        );
        // The newest cut counts.
        rows.push(cut(&mark(&rows[3]), &rows[5]));
        assert_eq!(broken(&rows[4..]), None);
        assert_eq!(
            broken(&rows[2..]),
            Some(ChainBreak::CutWithoutMark { n: 2 })
        );
        // A cut that was written by hand is no cut.
        let mut forged = chain(5);
        let mut by_hand = cut(&mark(&forged[1]), &forged[4]);
        by_hand.after = Some(cut_text(&mark(&forged[2])));
        forged.push(by_hand);
        assert_eq!(broken(&forged[3..]), Some(ChainBreak::Changed { n: 6 }));
    }
}
