//! The parameters of GET /api/keys: which keys, in which order, and where a page begins.
//!
//! A place in the list is what the last key of a page is sorted by, so it stays valid when that key is deleted. Any order
//! but newest first looks at every key for each page, and keeps no more of them than the page holds.

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::admin::error::ApiError;
use crate::admin::input::Query;
use crate::admin::principal::KeyScope;
use crate::policy::account::JudgedKey;
use crate::policy::key::KeyState;
use crate::policy::time::{UnixTime, parse_span};
use crate::runtime::cooperative_yield::yield_if_due;
use crate::table::{Entry, SortKey, Table};

const DEFAULT_LIMIT: usize = 50;

/// What a list was asked for.
pub(super) struct KeyList {
    limit: usize,
    after: Option<Place>,
    sort: Sort,
    filter: Filter,
}

/// One page of a list.
pub(super) struct ListPage {
    /// The keys.
    pub(super) entries: Vec<Arc<Entry>>,
    /// Where the next page begins; None on the last.
    pub(super) next: Option<String>,
}

impl KeyList {
    pub(super) fn of(query: &Query, now: UnixTime) -> Result<Self, ApiError> {
        let limit = query.limit(DEFAULT_LIMIT)?;
        let sort = query
            .parameter("sort")?
            .map_or(Ok(Sort::NEWEST_FIRST), Sort::of)?;
        let after = match query.parameter("after")? {
            None => None,
            Some(text) => Some(Place::parse(text, sort).ok_or_else(|| {
                ApiError::invalid(
                    "after",
                    "is no place in this list; take it from next of an answer with the same sort",
                )
            })?),
        };
        Ok(Self {
            limit,
            after,
            sort,
            filter: Filter::of(query, now)?,
        })
    }

    /// Whether it asks when keys were used last, which is known over a restart only with a database.
    pub(super) fn needs_uses(&self) -> bool {
        self.filter.unused_since.is_some()
    }

    /// The page. Takes as long as it takes to look at every key, so it does not run on a thread that serves requests.
    pub(super) fn page(&self, table: &Table, scope: &KeyScope, now: UnixTime) -> ListPage {
        if self.sort == Sort::NEWEST_FIRST {
            let after = self.after.as_ref().map(|place| place.age);
            let found = table.newest_first(after, self.limit, |entry| {
                yield_if_due();
                scope.sees(entry.key()) && self.filter.takes(table, entry, now)
            });
            let place = |age| Place { value: None, age }.text(self.sort);
            return ListPage {
                entries: found.entries,
                next: found.next.map(place),
            };
        }
        let mut first = FirstPlaces::new(self.sort, self.limit + 1);
        table.walk_newest_first(None, |age, entry| {
            yield_if_due();
            if scope.sees(entry.key()) && self.filter.takes(table, &entry, now) {
                let place = Place {
                    value: self.sort.value(table, &entry),
                    age,
                };
                let is_behind = |after| self.sort.compare(&place, after).is_gt();
                if self.after.as_ref().is_none_or(is_behind) {
                    first.offer(place, entry);
                }
            }
            ControlFlow::Continue(())
        });
        let mut found = first.into_sorted();
        let is_more = found.len() > self.limit;
        found.truncate(self.limit);
        ListPage {
            next: found
                .last()
                .filter(|_| is_more)
                .map(|(place, _)| place.text(self.sort)),
            entries: found.into_iter().map(|(_, entry)| entry).collect(),
        }
    }
}

/// The first keys in an order, out of many that are offered.
struct FirstPlaces {
    sort: Sort,
    most: usize,
    found: Vec<(Place, Arc<Entry>)>,
    /// Nothing behind this one is among the first.
    last: Option<Place>,
}

impl FirstPlaces {
    fn new(sort: Sort, most: usize) -> Self {
        Self {
            sort,
            most,
            found: Vec::new(),
            last: None,
        }
    }

    fn offer(&mut self, place: Place, entry: Arc<Entry>) {
        let is_too_late = |last: &Place| self.sort.compare(&place, last).is_gt();
        if self.last.as_ref().is_some_and(is_too_late) {
            return;
        }
        self.found.push((place, entry));
        if self.found.len() >= 2 * self.most {
            self.sort_and_cut();
        }
    }

    fn sort_and_cut(&mut self) {
        let sort = self.sort;
        self.found
            .sort_unstable_by(|(one, _), (other, _)| sort.compare(one, other));
        self.found.truncate(self.most);
        if self.found.len() == self.most {
            self.last = self.found.last().map(|(place, _)| place.clone());
        }
    }

    fn into_sorted(mut self) -> Vec<(Place, Arc<Entry>)> {
        self.sort_and_cut();
        self.found
    }
}

/// An order of keys. Keys without the value come last in both directions, and keys with the same value newest first.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sort {
    by: SortField,
    descending: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SortField {
    Name,
    Account,
    ExpiresAt,
    LastUsedAt,
    Requests,
    CreatedAt,
}

const SORT_FIELDS: [(&str, SortField); 6] = [
    ("name", SortField::Name),
    ("account", SortField::Account),
    ("expires_at", SortField::ExpiresAt),
    ("last_used_at", SortField::LastUsedAt),
    ("requests", SortField::Requests),
    ("created_at", SortField::CreatedAt),
];

impl Sort {
    const NEWEST_FIRST: Self = Self {
        by: SortField::CreatedAt,
        descending: true,
    };

    fn of(text: &str) -> Result<Self, ApiError> {
        let (name, descending) = text
            .strip_prefix('-')
            .map_or((text, false), |name| (name, true));
        let field = SORT_FIELDS.into_iter().find(|(known, _)| *known == name);
        field
            .map(|(_, by)| Self { by, descending })
            .ok_or_else(|| {
                ApiError::invalid(
                    "sort",
                    "must be name, account, expires_at, last_used_at, requests or created_at; put - before it for \
                     descending",
                )
            })
    }

    fn value(self, table: &Table, entry: &Entry) -> Option<SortValue> {
        let key = entry.key();
        let text = |text: &str| SortValue::Text(text.to_lowercase());
        match self.by {
            SortField::Name => Some(text(key.name())),
            SortField::Account => key.account().map(text),
            SortField::ExpiresAt => {
                let account = entry.account_rules();
                let judged = JudgedKey::new(key, account.as_deref());
                judged.expires_at().map(SortValue::time)
            }
            SortField::LastUsedAt => table.usage(entry).last_used_at.map(SortValue::time),
            SortField::Requests => Some(SortValue::Number(table.usage(entry).requests)),
            SortField::CreatedAt => key.created_at().map(SortValue::time),
        }
    }

    fn compare(self, one: &Place, other: &Place) -> Ordering {
        let by_value = || match self.descending {
            true => other.value.cmp(&one.value),
            false => one.value.cmp(&other.value),
        };
        let missing_last = one.value.is_none().cmp(&other.value.is_none());
        missing_last
            .then_with(by_value)
            .then_with(|| other.age.cmp(&one.age))
    }
}

/// What a key is sorted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SortValue {
    Text(String),
    Number(u64),
}

impl SortValue {
    /// In the order of the times, those before 1970 too.
    fn time(time: UnixTime) -> Self {
        Self::Number(time.seconds().cast_unsigned() ^ (1 << 63))
    }
}

/// Where a key stands in a list. In newest-first order the value is None.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    value: Option<SortValue>,
    age: SortKey,
}

impl Place {
    /// The place as `next` and `after` hold it: creation time and position, and behind a dot what the list is sorted by.
    fn text(&self, sort: Sort) -> String {
        let age = format!(
            "{:016x}{:016x}",
            self.age.created_at.cast_unsigned(),
            self.age.position
        );
        if sort == Sort::NEWEST_FIRST {
            return age;
        }
        let value = match &self.value {
            None => String::new(),
            Some(SortValue::Text(text)) => hex(text),
            Some(SortValue::Number(number)) => format!("{number:016x}"),
        };
        format!("{age}.{value}")
    }

    fn parse(text: &str, sort: Sort) -> Option<Self> {
        let (age, value) = if sort == Sort::NEWEST_FIRST {
            (text, None)
        } else {
            let (age, value) = text.split_once('.')?;
            (age, Some(value).filter(|value| !value.is_empty()))
        };
        let value = match (value, sort.by) {
            (None, _) => None,
            (Some(hex), SortField::Name | SortField::Account) => {
                Some(SortValue::Text(text_of(hex)?))
            }
            (Some(hex), _) => Some(SortValue::Number(number(hex)?)),
        };
        let (created_at, position) = age.split_at_checked(16)?;
        Some(Self {
            value,
            age: SortKey {
                created_at: number(created_at)?.cast_signed(),
                position: number(position)?,
            },
        })
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// 16 hexadecimal digits.
fn number(hex: &str) -> Option<u64> {
    (hex.len() == 16 && is_hex(hex)).then(|| u64::from_str_radix(hex, 16).ok())?
}

/// Two hexadecimal digits for each byte.
fn hex(text: &str) -> String {
    text.bytes().fold(String::new(), |mut hex, byte| {
        let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or_default();
        hex.extend([digit(byte >> 4), digit(byte & 15)]);
        hex
    })
}

fn text_of(hex: &str) -> Option<String> {
    if !is_hex(hex) {
        return None;
    }
    let pairs = hex.as_bytes().chunks(2).map(|pair| {
        let [high, low] = *pair else { return None };
        let value = |digit: u8| char::from(digit).to_digit(16);
        u8::try_from(value(high)? * 16 + value(low)?).ok()
    });
    String::from_utf8(pairs.collect::<Option<_>>()?).ok()
}

/// Which keys a list holds: those that meet every condition.
struct Filter {
    search: Search,
    state: Option<KeyState>,
    account: Option<String>,
    model: Option<String>,
    expires_before: Option<UnixTime>,
    /// Only keys that were neither used nor made since.
    unused_since: Option<UnixTime>,
}

impl Filter {
    fn of(query: &Query, now: UnixTime) -> Result<Self, ApiError> {
        let states = [KeyState::Active, KeyState::Disabled, KeyState::Expired];
        let state = match query.parameter("state")? {
            None => None,
            Some(text) => Some(
                states
                    .into_iter()
                    .find(|state| state.label() == text)
                    .ok_or_else(|| {
                        ApiError::invalid("state", "must be active, disabled or expired")
                    })?,
            ),
        };
        let named = |name: &str| match query.parameter(name)? {
            Some("") => Err(ApiError::invalid(
                name,
                "is empty; name one, or leave it out",
            )),
            value => Ok(value.map(str::to_owned)),
        };
        let expires_before = match query.parameter("expires_before")? {
            None => None,
            Some(text) => Some(UnixTime::parse_expiry(text).map_err(|_| {
                ApiError::invalid(
                    "expires_before",
                    "is no time; write it like 2027-02-01 or 2027-02-01T00:00:00Z",
                )
            })?),
        };
        let unused_since = match query.parameter("unused_for")? {
            None => None,
            Some(text) => Some(
                parse_span(text)
                    .filter(|span| *span > 0)
                    .map(|span| now.plus(-span))
                    .ok_or_else(|| {
                        ApiError::invalid("unused_for", "must be a span like 90d or 12h")
                    })?,
            ),
        };
        Ok(Self {
            search: Search::of(query.parameter("query")?.unwrap_or_default()),
            state,
            account: named("account")?,
            model: named("model")?,
            expires_before,
            unused_since,
        })
    }

    fn takes(&self, table: &Table, entry: &Entry, now: UnixTime) -> bool {
        let account_rules = entry.account_rules();
        let judged = JudgedKey::new(entry.key(), account_rules.as_deref());
        let Self {
            search,
            state,
            account,
            model,
            expires_before,
            unused_since,
        } = self;
        let expires_by = |limit: &UnixTime| judged.expires_at().is_some_and(|end| end <= *limit);
        state.is_none_or(|state| judged.state(now) == state)
            && account
                .as_deref()
                .is_none_or(|account| judged.key().account() == Some(account))
            && model
                .as_deref()
                .is_none_or(|model| judged.allows_as(model, None))
            && expires_before.as_ref().is_none_or(expires_by)
            && unused_since.is_none_or(|since| !is_used_since(table, entry, since))
            && search.matches(judged, now)
    }
}

/// Whether a key was used then or later, or made: a new key is not yet one that nobody uses.
fn is_used_since(table: &Table, entry: &Entry, since: UnixTime) -> bool {
    let used = table.usage(entry).last_used_at;
    [used, entry.key().created_at()]
        .into_iter()
        .flatten()
        .any(|time| time >= since)
}

/// A text to search for in keys, ignoring case.
struct Search {
    text: String,
    /// Whether it could be a part of a network.
    is_numeric: bool,
}

impl Search {
    fn of(text: &str) -> Self {
        let is_numeric = text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'/'));
        Self {
            text: text.to_lowercase(),
            is_numeric,
        }
    }

    fn matches(&self, judged: JudgedKey<'_>, now: UnixTime) -> bool {
        let key = judged.key();
        let networks = key.allow_from().networks();
        self.text.is_empty()
            || self.is_in(key.name())
            || self.is_in(key.id())
            || key.account().is_some_and(|account| self.is_in(account))
            || key.hint().is_some_and(|hint| self.is_in(hint))
            || key
                .model_access()
                .models()
                .iter()
                .any(|model| self.is_in(model))
            || (self.is_numeric && networks.iter().any(|net| self.is_in(&net.to_string())))
            // The whole word: a part of one would find nearly every key.
            || judged.state(now).label() == self.text
    }

    fn is_in(&self, text: &str) -> bool {
        let wanted = self.text.as_bytes();
        if text.is_ascii() {
            // The common case, without copying the text.
            return text
                .as_bytes()
                .windows(wanted.len())
                .any(|part| part.eq_ignore_ascii_case(wanted));
        }
        text.to_lowercase().contains(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGES: [SortKey; 3] = [
        SortKey {
            created_at: i64::MIN,
            position: 0,
        },
        SortKey {
            created_at: -1,
            position: u64::MAX,
        },
        SortKey {
            created_at: 1_800_000_000,
            position: 7,
        },
    ];

    fn sort(text: &str) -> Sort {
        Sort::of(text).unwrap_or(Sort::NEWEST_FIRST)
    }

    #[test]
    fn a_place_in_the_list_survives_its_text_form() {
        let text = SortValue::Text("été .\u{202e}".to_owned());
        for age in AGES {
            for (by, value) in [
                ("-created_at", None),
                ("created_at", Some(SortValue::Number(0))),
                ("-requests", Some(SortValue::Number(u64::MAX))),
                ("name", Some(text.clone())),
                ("-account", Some(text.clone())),
                ("expires_at", None),
            ] {
                let place = Place { value, age };
                let written = place.text(sort(by));
                assert!(
                    written
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
                );
                assert_eq!(Place::parse(&written, sort(by)), Some(place), "{by}");
            }
        }
        let zeros = "0".repeat(32);
        for bad in [
            "",
            "0",
            &"g".repeat(32),
            &"A".repeat(32),
            &"0".repeat(33),
            &format!("+{}", "0".repeat(31)),
            &format!("{}é{}", "0".repeat(15), "0".repeat(15)),
            &format!("{zeros}."),
        ] {
            assert_eq!(Place::parse(bad, Sort::NEWEST_FIRST), None, "{bad}");
        }
        for (by, bad) in [
            ("name", zeros.clone()),
            ("name", format!("{zeros}.0")),
            ("name", format!("{zeros}.ff")),
            ("requests", format!("{zeros}.00")),
            ("-expires_at", format!("{zeros}.{}", "G".repeat(16))),
        ] {
            assert_eq!(Place::parse(&bad, sort(by)), None, "{by} {bad}");
        }
    }

    #[test]
    fn times_before_1970_are_sorted_before_later_ones() {
        let times = [i64::MIN, -1, 0, 1, i64::MAX];
        let values = times.map(|time| SortValue::time(UnixTime::from_seconds(time)));
        assert!(values.is_sorted());
    }

    #[test]
    fn a_search_is_blind_to_case_in_every_script() {
        for (wanted, text) in [
            ("WEB", "my website"),
            ("éTÉ", "Été 2027"),
            ("ёлка", "ЁЛКА"),
            ("k", "\u{212a}elvin"),
            ("\u{212a}", "kelvin"),
        ] {
            assert!(Search::of(wanted).is_in(text), "{wanted} in {text}");
        }
        assert!(!Search::of("web").is_in("we b"));
        assert!(!Search::of("longer than the text").is_in("short"));
    }
}
