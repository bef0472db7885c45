//! The limits and budgets of a key as JSON: in the key file and in the bodies and answers of the admin API.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::policy::budget::{Budget, BudgetMode, BudgetPeriod, BudgetUnit, MICRO};
use crate::policy::key_limits::{
    KeyAllowance, KeyLimits, LimitKind, LimitSetting, MAX_BUDGETS, MAX_LIMIT, UNLIMITED,
};
use crate::policy::price::Millionths;
use crate::store::strict_json::{JsonValue, ValueError, printable};

/// The highest budget of cost or seconds, in whole units.
const MAX_DECIMAL: u64 = 999_999_999;

/// A change of a key's limits. A kind that is not named stays (RFC 7396).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LimitsPatch {
    /// All stay.
    #[default]
    Keep,
    /// None is set any more.
    Clear,
    /// These are set, or cleared.
    Set(Vec<(LimitKind, Option<LimitSetting>)>),
}

impl LimitsPatch {
    /// Whether it is a change.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self != Self::Keep
    }

    /// The limits with this change.
    #[must_use]
    pub fn applied_to(&self, limits: KeyLimits) -> KeyLimits {
        match self {
            Self::Keep => limits,
            Self::Clear => KeyLimits::default(),
            Self::Set(settings) => {
                let mut changed = limits;
                for (kind, setting) in settings {
                    changed.set(*kind, *setting);
                }
                changed
            }
        }
    }
}

/// Reads an object of limits: each a whole number, `"unlimited"`, or null for none.
pub(crate) fn limits(value: JsonValue<'_>) -> Result<LimitsPatch, ValueError> {
    let JsonValue::Object(entries) = value else {
        return Err((
            "",
            format!(
                "must be an object, not {}; write it like {{\"requests_per_minute\":60}}",
                value.kind()
            ),
        ));
    };
    let mut settings: Vec<(LimitKind, Option<LimitSetting>)> = Vec::new();
    for (name, value) in entries {
        let kind = LimitKind::of_name(&name).ok_or_else(|| {
            let known = LimitKind::ALL.map(LimitKind::name).join(", ");
            let message = format!(
                "holds {}, which is unknown; only {known} belong there, remove it",
                printable(&name)
            );
            ("", message)
        })?;
        if settings.iter().any(|(known, _)| *known == kind) {
            return Err(("", format!("names {} twice; keep one", kind.name())));
        }
        settings.push((kind, limit(kind, &value)?));
    }
    Ok(LimitsPatch::Set(settings))
}

fn limit(kind: LimitKind, value: &JsonValue<'_>) -> Result<Option<LimitSetting>, ValueError> {
    let setting = match value {
        JsonValue::Null => return Ok(None),
        JsonValue::Number(number) => number.and_then(LimitSetting::at_most),
        JsonValue::Text(text) if text == UNLIMITED => Some(LimitSetting::Unlimited),
        _ => None,
    };
    setting.map(Some).ok_or_else(|| {
        let message = format!(
            "must be a whole number from 1 to {MAX_LIMIT}, \"{UNLIMITED}\", or null for none of its own; write it so"
        );
        (kind.name(), message)
    })
}

/// Reads a list of budgets from text.
///
/// # Errors
/// The field within a budget, or empty, and what is wrong.
pub(crate) fn parse_budgets(text: &str) -> Result<Box<[Budget]>, ValueError> {
    let value = serde_json::from_str(text).map_err(|error| ("", error.to_string()))?;
    budgets(value)
}

/// Reads a list of budgets.
pub(crate) fn budgets(value: JsonValue<'_>) -> Result<Box<[Budget]>, ValueError> {
    let JsonValue::List(entries) = value else {
        return Err((
            "",
            format!(
                "must be a list, not {}; write it like [{{\"unit\":\"tokens\",\"amount\":5000000,\"per\":\"month\"}}]",
                value.kind()
            ),
        ));
    };
    if entries.len() > MAX_BUDGETS {
        return Err((
            "",
            format!(
                "holds {} budgets; keep at most {MAX_BUDGETS}",
                entries.len()
            ),
        ));
    }
    let mut budgets: Vec<Budget> = Vec::with_capacity(entries.len());
    for entry in entries {
        let budget = budget(entry)?;
        let is_same = |other: &Budget| other.unit == budget.unit && other.period == budget.period;
        if budgets.iter().any(is_same) {
            let (unit, per) = (budget.unit.label(), budget.period.label());
            return Err((
                "",
                format!("holds two budgets of {unit} per {per}; keep one"),
            ));
        }
        budgets.push(budget);
    }
    Ok(budgets.into())
}

fn budget(value: JsonValue<'_>) -> Result<Budget, ValueError> {
    let JsonValue::Object(entries) = value else {
        return Err((
            "",
            format!(
                "holds {}; write each budget like {{\"unit\":\"tokens\",\"amount\":5000000,\"per\":\"month\"}}",
                value.kind()
            ),
        ));
    };
    let (mut unit, mut amount, mut per, mut mode) = (None, None, None, None);
    for (name, value) in entries {
        let place = match &*name {
            "unit" => &mut unit,
            "amount" => &mut amount,
            "per" => &mut per,
            "mode" => &mut mode,
            other => {
                let message = format!(
                    "holds {}, which is unknown; only unit, amount, per and mode belong there, remove it",
                    printable(other)
                );
                return Err(("", message));
            }
        };
        if place.replace(value).is_some() {
            return Err(("", format!("names {name} twice in one budget; keep one")));
        }
    }
    let unit =
        word(unit, "unit", BudgetUnit::ALL, BudgetUnit::label)?.ok_or_else(|| missing("unit"))?;
    let period =
        word(per, "per", BudgetPeriod::ALL, BudgetPeriod::label)?.ok_or_else(|| missing("per"))?;
    let mode = word(mode, "mode", BudgetMode::ALL, BudgetMode::label)?;
    Ok(Budget {
        unit,
        amount: amount_of(unit, amount.as_ref())?,
        period,
        mode: mode.unwrap_or(BudgetMode::Enforce),
    })
}

/// One of these words; null is none.
fn word<T: Copy, const N: usize>(
    value: Option<JsonValue<'_>>,
    field: &'static str,
    all: [T; N],
    label: fn(T) -> &'static str,
) -> Result<Option<T>, ValueError> {
    match value {
        None | Some(JsonValue::Null) => Ok(None),
        Some(JsonValue::Text(text)) if all.iter().any(|one| label(*one) == text) => {
            Ok(all.into_iter().find(|one| label(*one) == text))
        }
        Some(_) => {
            let words = all.map(label).join(", ");
            Err((field, format!("must be one of {words}; write which")))
        }
    }
}

fn missing(field: &'static str) -> ValueError {
    (field, "is missing; add it".to_owned())
}

/// An amount: a whole number of tokens or requests; for costs and seconds also a decimal in quotes.
fn amount_of(unit: BudgetUnit, value: Option<&JsonValue<'_>>) -> Result<u64, ValueError> {
    let most = match unit.is_decimal() {
        false => MAX_LIMIT,
        true => MAX_DECIMAL * MICRO,
    };
    let amount = match (value, unit.is_decimal()) {
        (None, _) => return Err(missing("amount")),
        (Some(JsonValue::Number(number)), false) => *number,
        (Some(JsonValue::Number(number)), true) => {
            number.and_then(|number| number.checked_mul(MICRO))
        }
        (Some(JsonValue::Text(text)), true) => Millionths::parse(text),
        (Some(_), _) => None,
    };
    amount
        .filter(|amount| (1..=most).contains(amount))
        .ok_or_else(|| {
            let message = match unit.is_decimal() {
                false => format!("must be a whole number from 1 to {MAX_LIMIT}; write it so"),
                true => format!(
                    "must be a decimal in quotes, above 0, at most {MAX_DECIMAL}, with at most 6 digits behind the point; write it like \"25.00\""
                ),
            };
            ("amount", message)
        })
}

/// Appends the members `limits` and `budgets` of a key's line, each with a comma before it, where something is set.
pub(crate) fn write(allowance: &KeyAllowance, out: &mut Vec<u8>) {
    let mut member = |name: &str, value: Value| {
        out.extend_from_slice(format!(",\"{name}\":{value}").as_bytes());
    };
    if !allowance.limits.are_unset() {
        member("limits", limits_view(&allowance.limits));
    }
    if !allowance.budgets.is_empty() {
        let views = allowance.budgets.iter().map(BudgetView::of);
        let views: Vec<Value> = views
            .filter_map(|view| serde_json::to_value(view).ok())
            .collect();
        member("budgets", views.into());
    }
}

/// The limits that are set, by their names; null where none is.
#[must_use]
pub(crate) fn limits_view(limits: &KeyLimits) -> Value {
    let set = LimitKind::ALL.into_iter().filter_map(|kind| {
        let value: Value = match limits.get(kind)? {
            LimitSetting::Unlimited => UNLIMITED.into(),
            LimitSetting::AtMost(limit) => limit.get().into(),
        };
        Some((kind.name().to_owned(), value))
    });
    let set: Map<String, Value> = set.collect();
    match set.is_empty() {
        true => Value::Null,
        false => set.into(),
    }
}

/// A budget as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct BudgetView {
    unit: &'static str,
    amount: Value,
    per: &'static str,
    mode: &'static str,
}

impl BudgetView {
    /// The view of a budget.
    pub(crate) fn of(budget: &Budget) -> Self {
        Self {
            unit: budget.unit.label(),
            amount: amount_view(budget.unit, budget.amount),
            per: budget.period.label(),
            mode: budget.mode.label(),
        }
    }
}

/// An amount as it is written: a number, or a decimal in quotes.
pub(crate) fn amount_view(unit: BudgetUnit, amount: u64) -> Value {
    match unit.is_decimal() {
        false => amount.into(),
        true => Millionths(i64::try_from(amount).unwrap_or(i64::MAX))
            .to_string()
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> JsonValue<'_> {
        serde_json::from_str(text).unwrap()
    }

    fn all_of(patch: &LimitsPatch) -> KeyLimits {
        patch.applied_to(KeyLimits::default())
    }

    #[test]
    fn what_is_written_is_read_back() {
        let texts = [
            r#"{"requests_per_minute":60,"tokens_per_minute":9007199254740992,"concurrent_requests":"unlimited"}"#,
            r#"[{"unit":"tokens","amount":5000000,"per":"month","mode":"enforce"},{"unit":"cost","amount":"25.5","per":"day","mode":"observe"},{"unit":"audio_seconds","amount":"0.000001","per":"total","mode":"enforce"},{"unit":"cost","amount":"999999999","per":"total","mode":"enforce"}]"#,
        ];
        let allowance = KeyAllowance {
            limits: all_of(&limits(value(texts[0])).unwrap()),
            budgets: budgets(value(texts[1])).unwrap(),
        };
        let mut written = Vec::new();
        write(&allowance, &mut written);
        let written: Value =
            serde_json::from_slice(&[b"{\"x\":0", &*written, b"}"].concat()).unwrap();
        for (name, text) in [("limits", texts[0]), ("budgets", texts[1])] {
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(written[name], expected);
        }
        let mut written = Vec::new();
        write(&KeyAllowance::default(), &mut written);
        assert_eq!(written, b"");
    }

    #[test]
    fn a_fault_in_a_limit_names_it() {
        for (text, field, part) in [
            (
                r#"{"requests_per_minute":0}"#,
                "requests_per_minute",
                "1 to",
            ),
            (
                r#"{"requests_per_minute":9007199254740993}"#,
                "requests_per_minute",
                "1 to",
            ),
            (r#"{"tokens_per_minute":1.5}"#, "tokens_per_minute", "whole"),
            (r#"{"tokens_per_minute":-1}"#, "tokens_per_minute", "whole"),
            (r#"{"tokens_per_minute":"7"}"#, "tokens_per_minute", "whole"),
            (r#"{"concurrent":7}"#, "", "concurrent, which is unknown"),
            (
                r#"{"tokens_per_minute":1,"tokens_per_minute":2}"#,
                "",
                "twice",
            ),
            (r#"[60]"#, "", "an object"),
        ] {
            let (within, message) = limits(value(text)).unwrap_err();
            assert_eq!(within, field, "{text}");
            assert!(
                message.contains(part) && message.contains("; ") || part == "twice",
                "{text}: {message}"
            );
        }
    }

    #[test]
    fn a_fault_in_a_budget_names_it() {
        for (text, field, part) in [
            (r#"[{"amount":1,"per":"day"}]"#, "unit", "missing"),
            (
                r#"[{"unit":"words","amount":1,"per":"day"}]"#,
                "unit",
                "tokens",
            ),
            (r#"[{"unit":"tokens","per":"day"}]"#, "amount", "missing"),
            (
                r#"[{"unit":"tokens","amount":0,"per":"day"}]"#,
                "amount",
                "1 to",
            ),
            (
                r#"[{"unit":"tokens","amount":"5","per":"day"}]"#,
                "amount",
                "whole",
            ),
            (
                r#"[{"unit":"cost","amount":2.5,"per":"day"}]"#,
                "amount",
                "quotes",
            ),
            (
                r#"[{"unit":"cost","amount":"0.0000001","per":"day"}]"#,
                "amount",
                "6 digits",
            ),
            (
                r#"[{"unit":"cost","amount":"-1","per":"day"}]"#,
                "amount",
                "above 0",
            ),
            (
                r#"[{"unit":"tokens","amount":1,"per":"hour"}]"#,
                "per",
                "week",
            ),
            (
                r#"[{"unit":"tokens","amount":1,"per":"day","mode":"warn"}]"#,
                "mode",
                "observe",
            ),
            (
                r#"[{"unit":"tokens","amount":1,"per":"day","from":1}]"#,
                "",
                "from, which is unknown",
            ),
            (
                r#"[{"unit":"tokens","amount":1,"per":"day"},{"unit":"tokens","amount":2,"per":"day"}]"#,
                "",
                "two budgets of tokens per day",
            ),
            (r#"["tokens"]"#, "", "a string"),
            (r#"{"unit":"tokens"}"#, "", "a list"),
        ] {
            let (within, message) = budgets(value(text)).unwrap_err();
            assert_eq!(within, field, "{text}");
            assert!(message.contains(part), "{text}: {message}");
        }
        let many = format!(
            "[{}]",
            [r#"{"unit":"tokens","amount":1,"per":"day"}"#; 9].join(",")
        );
        assert!(budgets(value(&many)).unwrap_err().1.contains("at most 8"));
    }

    #[test]
    fn a_patch_keeps_the_kinds_that_it_does_not_name() {
        let first =
            all_of(&limits(value(r#"{"requests_per_minute":60,"tokens_per_minute":5}"#)).unwrap());
        let patch = limits(value(
            r#"{"tokens_per_minute":null,"concurrent_requests":2}"#,
        ))
        .unwrap();
        assert_eq!(
            limits_view(&patch.applied_to(first)),
            serde_json::json!({"requests_per_minute": 60, "concurrent_requests": 2})
        );
        assert_eq!(
            limits_view(&LimitsPatch::Clear.applied_to(first)),
            Value::Null
        );
        assert_eq!(LimitsPatch::Keep.applied_to(first), first);
    }
}
