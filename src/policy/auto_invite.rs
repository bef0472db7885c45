//! Which accounts a person belongs to by what the company's identity provider says of that person, such as groups.

use serde_json::{Map, Value};

use crate::policy::key::KeyId;
use crate::policy::person::Role;

/// Persons whose claim has this value are members of this account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoInvite {
    /// The claim's name.
    pub claim: String,
    /// A text that the claim is, or that is in its list.
    pub value: String,
    /// The account's id.
    pub account: KeyId,
    /// What they may do there.
    pub role: Role,
}

impl AutoInvite {
    fn matches(&self, claims: &Map<String, Value>) -> bool {
        match claims.get(&self.claim) {
            Some(Value::String(text)) => *text == self.value,
            Some(Value::Array(values)) => values.iter().any(|value| *value == *self.value),
            _ => false,
        }
    }
}

/// The accounts of a person with these claims, each once, with the greatest of its roles.
#[must_use]
pub fn matching(rules: &[AutoInvite], claims: &Map<String, Value>) -> Vec<(KeyId, Role)> {
    let mut accounts: Vec<(KeyId, Role)> = Vec::new();
    for rule in rules.iter().filter(|rule| rule.matches(claims)) {
        match accounts
            .iter_mut()
            .find(|(account, _)| *account == rule.account)
        {
            Some((_, role)) => *role = rule.role.max(*role),
            None => accounts.push((rule.account.clone(), rule.role)),
        }
    }
    accounts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(claim: &str, value: &str, account: &str, role: Role) -> AutoInvite {
        AutoInvite {
            claim: claim.to_owned(),
            value: value.to_owned(),
            account: KeyId::parse(account).unwrap(),
            role,
        }
    }

    #[track_caller]
    fn gives(claims: &Value, expected: &[(&str, Role)]) {
        let rules = [
            rule("groups", "ai-team", "acme", Role::Member),
            rule("groups", "everyone", "lab", Role::Viewer),
            rule("groups", "ai-leads", "acme", Role::Owner),
            rule("groups", "everyone", "acme", Role::Viewer),
        ];
        let found = matching(&rules, claims.as_object().unwrap());
        let found: Vec<_> = found
            .iter()
            .map(|(account, role)| (account.as_str(), *role))
            .collect();
        assert_eq!(found, expected, "{claims}");
    }

    #[test]
    fn a_claim_is_a_text_or_a_list_of_texts() {
        gives(&json!({"groups": "ai-team"}), &[("acme", Role::Member)]);
        gives(
            &json!({"groups": ["x", 7, "ai-team"]}),
            &[("acme", Role::Member)],
        );
        for nothing in [
            json!({}),
            json!({"groups": null}),
            json!({"groups": []}),
            json!({"groups": "ai-team "}),
            json!({"groups": "AI-Team"}),
            json!({"groups": "x,ai-team"}),
            json!({"groups": {"ai-team": true}}),
            json!({"groups": [["ai-team"]]}),
            json!({"roles": "ai-team"}),
        ] {
            gives(&nothing, &[]);
        }
    }

    #[test]
    fn an_account_is_given_once_with_its_greatest_role() {
        gives(
            &json!({"groups": ["everyone", "ai-team", "ai-leads"]}),
            &[("acme", Role::Owner), ("lab", Role::Viewer)],
        );
    }
}
