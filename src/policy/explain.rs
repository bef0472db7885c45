//! A decision in words: what [`super::decide`] says about a request, and the rule that said so.
//!
//! Invariant: the verdict is `decide`'s own; only the sentence is made here.

use std::net::IpAddr;

use super::decide;
use super::denial::Denial;
use super::key::Key;
use super::model_access::ModelAccess;
use super::network::{AllowFrom, ClientAddress};
use super::time::UnixTime;

/// Whose request is asked about.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'k> {
    /// A key's.
    Key(&'k Key),
    /// No key has the id.
    NoSuchId,
    /// No key has the token.
    NoSuchToken,
    /// The text is not of a form that tokens have.
    NoToken,
}

/// The facts of a request.
#[derive(Clone, Copy, Debug)]
pub struct Question<'k> {
    /// Whose it is.
    pub subject: Subject<'k>,
    /// The model it names.
    pub model: &'k str,
    /// Whether the catalogue holds that model.
    pub served: bool,
    /// Where it comes from.
    pub address: ClientAddress,
    /// When.
    pub at: UnixTime,
}

/// The decision and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Why it is refused; None: it is allowed.
    pub denial: Option<Denial>,
    /// One sentence that names the rule.
    pub reason: String,
}

/// Decides, and says why.
#[must_use]
pub fn explain(question: &Question<'_>) -> Explanation {
    let (key, nobody) = match question.subject {
        Subject::Key(key) => (Some(key), ""),
        Subject::NoSuchId => (None, "no key has this id"),
        Subject::NoSuchToken => (None, "no key has this token"),
        Subject::NoToken => (None, "this is no bearer token, or not the whole of one"),
    };
    let decision = decide::caller(key, question.address, question.at)
        .and_then(|caller| caller.for_model(question.model, |_| question.served.then_some(())));
    let denial = decision.err();
    let reason = match (key, denial) {
        (None, _) => nobody.to_owned(),
        (Some(key), None) => allowed(key, question),
        (Some(key), Some(denial)) => denied(key, denial, question),
    };
    let verdict = denial.map_or("allowed", |_| "denied");
    Explanation {
        denial,
        reason: format!("{verdict}: {reason}"),
    }
}

fn allowed(key: &Key, question: &Question<'_>) -> String {
    let end = match key.expires_at() {
        Some(end) => format!("active key until {end}"),
        None => "active key".to_owned(),
    };
    let place = match (key.allow_from(), question.address) {
        (AllowFrom::Networks(networks), ClientAddress::Known(IpAddr::V4(address))) => {
            let network = networks.iter().find(|network| network.contains(&address));
            network.map_or_else(String::new, |network| format!("{address} is in {network}"))
        }
        (AllowFrom::Anywhere | AllowFrom::Networks(_), _) => {
            "it may be used from any address".to_owned()
        }
    };
    let model = match key.model_access() {
        ModelAccess::All => "it may use every model",
        ModelAccess::Inclusive(_) => "the model is in its inclusive list",
        ModelAccess::Exclusive(_) => "the model is not in its exclusive list",
    };
    format!("{end}, {place}, {model} and this one is in the catalogue")
}

fn denied(key: &Key, denial: Denial, question: &Question<'_>) -> String {
    let (address, model) = (question.address, question.model);
    match denial {
        Denial::InvalidApiKey => "the key is disabled".to_owned(),
        Denial::ExpiredApiKey => match key.expires_at() {
            Some(end) => format!("the key expired at {end}"),
            None => denial.message().to_owned(),
        },
        Denial::IpNotAuthorized => {
            let networks: Vec<String> = key
                .allow_from()
                .networks()
                .iter()
                .map(ToString::to_string)
                .collect();
            let networks = networks.join(", ");
            match address {
                ClientAddress::Known(IpAddr::V6(_)) => {
                    format!("{address} is IPv6, and the key may be used from {networks} alone")
                }
                ClientAddress::Known(IpAddr::V4(_)) | ClientAddress::Unknown => {
                    format!("{address} is in none of the key's networks: {networks}")
                }
            }
        }
        Denial::ModelNotFound if !question.served => {
            format!("no upstream serves {model:?}")
        }
        Denial::ModelNotFound => match key.model_access() {
            ModelAccess::Exclusive(_) => format!("{model:?} is in the key's exclusive list"),
            ModelAccess::All | ModelAccess::Inclusive(_) => {
                format!("{model:?} is not in the key's inclusive list")
            }
        },
        // Of the token and the route nothing was asked.
        Denial::MissingApiKey | Denial::UnknownUrl | Denial::MethodNotAllowed { .. } => {
            denial.message().to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::key::{KeyFields, KeyId, KeyName};
    use crate::policy::model_access::ModelList;
    use crate::policy::network::parse_network;
    use crate::policy::token::TokenHash;

    fn key(change: impl FnOnce(&mut KeyFields)) -> Key {
        let mut fields = KeyFields {
            id: KeyId::parse("key_1").unwrap(),
            name: KeyName::parse("name").unwrap(),
            hash: TokenHash::of(b"token"),
            hint: None,
            model_access: ModelAccess::All,
            allow_from: AllowFrom::Anywhere,
            expires_at: None,
            created_at: None,
            account: None,
            disabled: false,
        };
        change(&mut fields);
        Key::from(fields)
    }

    fn ask(subject: Subject<'_>, model: &str, from: &str) -> (Option<&'static str>, String) {
        let explanation = explain(&Question {
            subject,
            model,
            served: model != "unserved",
            address: ClientAddress::of(from.parse().unwrap()),
            at: UnixTime::from_seconds(1_000),
        });
        (explanation.denial.map(Denial::label), explanation.reason)
    }

    fn list(names: &[&str]) -> ModelList {
        ModelList::new(names.iter().map(ToString::to_string).collect()).unwrap()
    }

    #[test]
    fn an_allowed_request_names_every_rule_that_let_it_pass() {
        let restricted = key(|fields| {
            fields.allow_from =
                AllowFrom::from_networks(vec![parse_network("192.0.2.0/24").unwrap()]);
            fields.model_access = ModelAccess::Inclusive(list(&["good"]));
            fields.expires_at = Some(UnixTime::from_seconds(2_000));
        });
        assert_eq!(
            ask(Subject::Key(&restricted), "good", "192.0.2.7"),
            (
                None,
                "allowed: active key until 1970-01-01T00:33:20Z, 192.0.2.7 is in 192.0.2.0/24, the model is in its \
                 inclusive list and this one is in the catalogue"
                    .to_owned()
            )
        );
        let (denial, reason) = ask(Subject::Key(&key(|_| ())), "good", "2001:db8::1");
        assert_eq!(denial, None);
        assert!(reason.contains("any address") && reason.contains("every model"));
    }

    #[test]
    fn a_refused_request_names_the_rule_that_refused_it() {
        let networks = AllowFrom::from_networks(vec![parse_network("192.0.2.0/24").unwrap()]);
        let here = key(|fields| fields.allow_from = networks.clone());
        let disabled = key(|fields| fields.disabled = true);
        let expired = key(|fields| fields.expires_at = Some(UnixTime::from_seconds(1_000)));
        let only = key(|fields| fields.model_access = ModelAccess::Inclusive(list(&["good"])));
        let but = key(|fields| fields.model_access = ModelAccess::Exclusive(list(&["bad"])));
        for (subject, model, from, denial, reason) in [
            (
                Subject::NoSuchId,
                "good",
                "::1",
                "invalid_api_key",
                "no key has this id",
            ),
            (
                Subject::NoSuchToken,
                "good",
                "::1",
                "invalid_api_key",
                "no key has this token",
            ),
            (
                Subject::NoToken,
                "good",
                "::1",
                "invalid_api_key",
                "no bearer token",
            ),
            (
                Subject::Key(&disabled),
                "good",
                "::1",
                "invalid_api_key",
                "is disabled",
            ),
            (
                Subject::Key(&expired),
                "good",
                "::1",
                "expired_api_key",
                "expired at 1970-01-01T00:16:40Z",
            ),
            (
                Subject::Key(&here),
                "good",
                "198.51.100.1",
                "ip_not_authorized",
                "198.51.100.1 is in none",
            ),
            (
                Subject::Key(&here),
                "good",
                "::1",
                "ip_not_authorized",
                "is IPv6",
            ),
            (
                Subject::Key(&only),
                "unserved",
                "::1",
                "model_not_found",
                "no upstream serves",
            ),
            (
                Subject::Key(&only),
                "bad",
                "::1",
                "model_not_found",
                "not in the key's inclusive list",
            ),
            (
                Subject::Key(&but),
                "bad",
                "::1",
                "model_not_found",
                "in the key's exclusive list",
            ),
        ] {
            let (found, sentence) = ask(subject, model, from);
            assert_eq!(found, Some(denial), "{sentence}");
            assert!(
                sentence.starts_with("denied: ") && sentence.contains(reason),
                "{sentence}"
            );
        }
    }
}
