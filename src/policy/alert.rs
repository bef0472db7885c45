//! Alerts: what the gateway tells its operator by itself, what it says then, and when it says it again.

use serde_json::{Value, json};

use crate::policy::time::UnixTime;

/// How long before its end a key is told of, in seconds.
pub const EXPIRES_SOON: i64 = 7 * 86_400;
/// An alert that could not be delivered for so long is given up, in seconds.
const GIVE_UP_AFTER: i64 = 86_400;
/// The pauses after the first, second, … failed attempt, in seconds. The last one is repeated.
const PAUSES: [i64; 8] = [1, 5, 30, 120, 600, 1_800, 3_600, 7_200];

/// Something to tell. It never has a token, a hash or a hint of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alert {
    /// A key expires within [`EXPIRES_SOON`].
    KeyExpires {
        /// The key.
        key_id: String,
        /// Its name.
        name: String,
        /// Its account.
        account: Option<String>,
        /// When it expires.
        expires_at: UnixTime,
    },
    /// No replica of an upstream takes requests.
    UpstreamDown {
        /// The upstream's name.
        upstream: String,
        /// Since when.
        since: UnixTime,
    },
    /// An upstream that was told to be down takes requests again.
    UpstreamUp {
        /// The upstream's name.
        upstream: String,
        /// Since when.
        since: UnixTime,
    },
    /// A budget is used up to a mark.
    BudgetMark {
        /// What the budget is on.
        whose: BudgetOf,
        /// What the budget counts: `tokens`, `requests`, `cost`, `audio_seconds`.
        unit: String,
        /// Its period: `day`, `week`, `month`, `total`.
        per: String,
        /// The mark: 80 or 95 percent.
        percent: u8,
        /// What is used, as a decimal.
        used: String,
        /// The whole budget, as a decimal.
        amount: String,
        /// When the period began. Each mark is told once in a period.
        period_start: UnixTime,
        /// When the budget begins anew; None: never.
        resets_at: Option<UnixTime>,
    },
    /// The operator asks whether alerts arrive.
    Test,
}

/// What a budget is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BudgetOf {
    /// A key.
    Key {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
    /// The account of this id, for all of its keys together.
    Account(String),
}

impl Alert {
    /// Its kind, as receivers, log and metrics see it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::KeyExpires { .. } => "key.expires",
            Self::UpstreamDown { .. } => UPSTREAM_DOWN,
            Self::UpstreamUp { .. } => UPSTREAM_UP,
            Self::BudgetMark { .. } => "budget.mark",
            Self::Test => "alert.test",
        }
    }

    /// What it is about: the id of a key or an account, or the name of an upstream.
    #[must_use]
    pub fn about(&self) -> &str {
        match self {
            Self::KeyExpires { key_id: id, .. }
            | Self::BudgetMark {
                whose: BudgetOf::Key { id, .. } | BudgetOf::Account(id),
                ..
            } => id,
            Self::UpstreamDown { upstream, .. } | Self::UpstreamUp { upstream, .. } => upstream,
            Self::Test => "",
        }
    }

    /// A text that it shares with every other alert that says the same. One of them is told.
    #[must_use]
    pub fn subject(&self) -> String {
        let (kind, about) = (self.kind(), self.about());
        match self {
            Self::KeyExpires { expires_at, .. } => {
                format!("{kind} {about} {}", expires_at.seconds())
            }
            Self::UpstreamDown { since, .. } | Self::UpstreamUp { since, .. } => {
                format!("{kind} {about} {}", since.seconds())
            }
            Self::BudgetMark {
                whose,
                unit,
                per,
                percent,
                amount,
                period_start,
                ..
            } => {
                let start = period_start.seconds();
                let whose = match whose {
                    BudgetOf::Key { .. } => "",
                    BudgetOf::Account(_) => "account ",
                };
                format!("{kind} {whose}{about} {unit}={amount}/{per} {percent} {start}")
            }
            Self::Test => kind.to_owned(),
        }
    }

    /// What the receiver gets, as JSON. `gateway` is this gateway's name.
    #[must_use]
    pub fn body(&self, gateway: &str, now: UnixTime) -> String {
        let mut data = match self {
            Self::KeyExpires {
                key_id,
                name,
                account,
                expires_at,
            } => json!({
                "key_id": key_id, "name": name, "account": account, "expires_at": expires_at.to_string(),
            }),
            Self::UpstreamDown { upstream, since } | Self::UpstreamUp { upstream, since } => {
                json!({"upstream": upstream, "since": since.to_string()})
            }
            Self::BudgetMark {
                whose,
                unit,
                per,
                percent,
                used,
                amount,
                period_start: _,
                resets_at,
            } => {
                let mut data = json!({
                    "unit": unit, "per": per, "percent": percent, "used": used, "amount": amount,
                    "resets_at": resets_at.map(|at| at.to_string()),
                });
                match whose {
                    BudgetOf::Key { id, name } => {
                        data["key_id"] = json!(id);
                        data["name"] = json!(name);
                    }
                    BudgetOf::Account(id) => data["account"] = json!(id),
                }
                data
            }
            Self::Test => json!({}),
        };
        data["gateway"] = Value::from(gateway);
        json!({"type": self.kind(), "timestamp": now.to_string(), "data": data}).to_string()
    }
}

/// The kinds of alerts about upstreams. The last one that was told says what the receiver believes.
pub const UPSTREAM_DOWN: &str = "upstream.down";
/// See [`UPSTREAM_DOWN`].
pub const UPSTREAM_UP: &str = "upstream.up";

/// When an alert is tried again after so many failed attempts; None: it is given up. All times in seconds since 1970.
#[must_use]
pub fn next_attempt(created_at: i64, attempts: u32, now: i64) -> Option<i64> {
    let last = PAUSES.len() - 1;
    let at = usize::try_from(attempts.saturating_sub(1)).map_or(last, |at| at.min(last));
    let next = now.saturating_add(PAUSES[at]);
    (next <= created_at.saturating_add(GIVE_UP_AFTER)).then_some(next)
}

/// The longest pause between two attempts, in seconds.
#[must_use]
pub fn longest_pause() -> i64 {
    PAUSES[PAUSES.len() - 1]
}

/// What the receiver was told of an upstream, and since when that is no longer so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpstreamWatch {
    told_down: bool,
    /// In milliseconds of the caller's clock.
    differs_since: Option<u64>,
}

impl UpstreamWatch {
    /// An upstream of which this was told last.
    #[must_use]
    pub fn told(is_down: bool) -> Self {
        Self {
            told_down: is_down,
            differs_since: None,
        }
    }

    /// Looks at an upstream. Returns how many milliseconds ago it changed, once it stays changed for `damping`
    /// milliseconds; then that is to be told.
    pub fn look(&mut self, is_down: bool, now: u64, damping: u64) -> Option<u64> {
        if is_down == self.told_down {
            self.differs_since = None;
            return None;
        }
        let since = *self.differs_since.get_or_insert(now);
        let ago = now.saturating_sub(since);
        if ago < damping {
            return None;
        }
        *self = Self::told(is_down);
        Some(ago)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_tried_for_a_day_with_growing_pauses() {
        let (mut now, mut attempts, mut pauses) = (0, 0, Vec::new());
        loop {
            attempts += 1;
            let Some(next) = next_attempt(0, attempts, now) else {
                break;
            };
            pauses.push(next - now);
            now = next;
        }
        assert_eq!(pauses[..4], [1, 5, 30, 120]);
        assert!(pauses.is_sorted());
        assert_eq!(pauses.iter().max(), Some(&longest_pause()));
        assert!((22 * 3600..=24 * 3600).contains(&now), "{now}");
        assert_eq!(next_attempt(0, u32::MAX, 0), Some(longest_pause()));
    }

    #[test]
    fn an_upstream_that_flaps_is_not_told_of() {
        let mut watch = UpstreamWatch::default();
        for second in 0..100 {
            let is_down = second % 7 > 2;
            assert_eq!(watch.look(is_down, second * 1000, 30_000), None);
        }
        let mut watch = UpstreamWatch::default();
        assert_eq!(watch.look(true, 1_000, 30_000), None);
        assert_eq!(watch.look(true, 30_999, 30_000), None);
        assert_eq!(watch.look(true, 31_500, 30_000), Some(30_500));
        // Once told, it is not told again, also after a restart.
        assert_eq!(watch.look(true, 99_000, 30_000), None);
        assert_eq!(UpstreamWatch::told(true).look(true, 99_000, 0), None);
        assert_eq!(watch.look(false, 100_000, 30_000), None);
        assert_eq!(watch.look(false, 130_000, 30_000), Some(30_000));
        assert_eq!(watch.look(false, 131_000, 30_000), None);
    }

    #[test]
    fn alerts_that_say_the_same_have_one_subject() {
        let expires = |name: &str, at| Alert::KeyExpires {
            key_id: "key_1".to_owned(),
            name: name.to_owned(),
            account: None,
            expires_at: UnixTime::from_seconds(at),
        };
        assert_eq!(expires("a", 5).subject(), expires("b", 5).subject());
        assert_ne!(expires("a", 5).subject(), expires("a", 6).subject());
        let mark_of = |whose, percent, used: &str| Alert::BudgetMark {
            whose,
            unit: "tokens".to_owned(),
            per: "month".to_owned(),
            percent,
            used: used.to_owned(),
            amount: "100".to_owned(),
            period_start: UnixTime::from_seconds(0),
            resets_at: None,
        };
        let key = || BudgetOf::Key {
            id: "key_1".to_owned(),
            name: "a".to_owned(),
        };
        let mark = |percent, used: &str| mark_of(key(), percent, used);
        assert_eq!(mark(80, "81").subject(), mark(80, "82").subject());
        assert_ne!(mark(80, "96").subject(), mark(95, "96").subject());
        let account = mark_of(BudgetOf::Account("key_1".to_owned()), 80, "81");
        assert_ne!(mark(80, "81").subject(), account.subject());
        let body_of = |alert: &Alert| -> Value {
            let body = alert.body("here", UnixTime::from_seconds(0));
            serde_json::from_str(&body).unwrap()
        };
        assert_eq!(body_of(&account)["data"]["account"], "key_1");
        assert_eq!(
            body_of(&mark(80, "81")),
            json!({"type": "budget.mark", "timestamp": "1970-01-01T00:00:00Z", "data": {
                "gateway": "here", "key_id": "key_1", "name": "a", "unit": "tokens", "per": "month",
                "percent": 80, "used": "81", "amount": "100", "resets_at": null,
            }})
        );
    }
}
