//! Explains a decision: the result of [`crate::policy::decide`], and which rule decides.
//!
//! Invariant: the decision comes from `decide`; this file only writes the sentence.

use std::net::IpAddr;
use std::sync::Arc;

use crate::policy::account::{AccountRules, JudgedKey};
use crate::policy::decide;
use crate::policy::denial::Denial;
use crate::policy::key::{Key, KeyToken, PreviousToken};
use crate::policy::model_access::ModelAccess;
use crate::policy::network::{AllowFrom, ClientAddress};
use crate::policy::time::UnixTime;
use crate::policy::token::TokenHash;

/// Whose request it is.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'k> {
    /// The request has this key, and a token with this hash.
    Key(JudgedKey<'k>, &'k TokenHash),
    /// No key has the id.
    NoSuchId,
    /// No key has the token.
    NoSuchToken,
    /// The text does not have the form of a token.
    MalformedToken,
}

/// The facts of a request.
#[derive(Clone, Copy, Debug)]
pub struct Question<'k> {
    /// Whose request it is.
    pub subject: Subject<'k>,
    /// The model that the request names.
    pub model: &'k str,
    /// The upstream's own name for the model, where it is an alias.
    pub sent_as: Option<&'k str>,
    /// Whether the catalogue contains that model.
    pub served: bool,
    /// The client's address.
    pub address: ClientAddress,
    /// The time of the request.
    pub at: UnixTime,
}

/// The decision and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Why the request is refused; None if it is allowed.
    pub denial: Option<Denial>,
    /// A sentence that names the rule.
    pub reason: String,
}

/// Decides and explains.
#[must_use]
pub fn explain(question: &Question<'_>) -> Explanation {
    let (denial, reason) = match question.subject {
        Subject::Key(key, hash) => judged(key, hash, question),
        Subject::NoSuchId => missing("no key has this id"),
        Subject::NoSuchToken => missing("no key has this token"),
        Subject::MalformedToken => missing("this is no bearer token, or not the whole of one"),
    };
    let verdict = denial.map_or("allowed", |_| "denied");
    Explanation {
        denial,
        reason: format!("{verdict}: {reason}"),
    }
}

fn missing(what: &str) -> (Option<Denial>, String) {
    (Some(Denial::InvalidApiKey), what.to_owned())
}

fn judged(
    judged_key: JudgedKey<'_>,
    hash: &TokenHash,
    question: &Question<'_>,
) -> (Option<Denial>, String) {
    let key = judged_key.key();
    let caller = decide::caller(Some(judged_key), hash, question.address, question.at);
    let decision = caller.and_then(|caller| {
        let sent_as = question.sent_as.map(Arc::from);
        caller.for_model(question.model, sent_as, |_| question.served.then_some(()))
    });
    let previous = key
        .previous()
        .filter(|_| key.token_of(hash) == Some(KeyToken::Previous));
    let denial = decision.err();
    let reason = match denial {
        None => allowed(judged_key, question),
        Some(denial) => by_account(judged_key, denial, question)
            .unwrap_or_else(|| denied(key, previous, denial, question)),
    };
    match previous {
        Some(previous) if !previous.ended(question.at) => {
            let end = previous.not_after();
            (
                denial,
                format!("{reason}; this is the key's previous token, which works until {end}"),
            )
        }
        Some(_) | None => (denial, reason),
    }
}

fn allowed(judged_key: JudgedKey<'_>, question: &Question<'_>) -> String {
    let key = judged_key.key();
    let end = match judged_key.expires_at() {
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
    let account = judged_key.account().map_or_else(String::new, |account| {
        format!(", its account {} allows all of it", account.id.as_str())
    });
    format!("{end}, {place}, {model} and this one is in the catalogue{account}")
}

/// The ceiling of the account that refuses; None where the key itself does.
fn by_account(
    judged_key: JudgedKey<'_>,
    denial: Denial,
    question: &Question<'_>,
) -> Option<String> {
    let (key, account) = (judged_key.key(), judged_key.account()?);
    let id = account.id.as_str();
    match denial {
        Denial::InvalidApiKey if account.disabled && !key.disabled() => {
            Some(format!("the key's account {id} is disabled"))
        }
        Denial::ExpiredApiKey if !key.expired(question.at) => Some(lived_too_long(key, account)),
        Denial::IpNotAuthorized if key.allow_from().admits(question.address) => {
            let networks = account.allow_from.networks().iter();
            let networks: Vec<String> = networks.map(ToString::to_string).collect();
            Some(format!(
                "{} is in none of the networks of the key's account {id}: {}",
                question.address,
                networks.join(", ")
            ))
        }
        Denial::ModelNotFound
            if question.served
                && key
                    .model_access()
                    .allows_as(question.model, question.sent_as) =>
        {
            let model = question.model;
            Some(format!("the key's account {id} does not allow {model:?}"))
        }
        Denial::MissingApiKey
        | Denial::InvalidApiKey
        | Denial::ExpiredApiKey
        | Denial::IpNotAuthorized
        | Denial::UnknownUrl
        | Denial::MethodNotAllowed { .. }
        | Denial::ModelNotFound => None,
    }
}

fn lived_too_long(key: &Key, account: &AccountRules) -> String {
    let days = account.max_key_days.map_or(0, |days| days.get());
    let ceiling = format!("its account {} allows {days} days", account.id.as_str());
    match key.created_at() {
        Some(begin) => format!("the key was created at {begin}, and {ceiling}"),
        None => format!("nobody knows when the key was created, and {ceiling}"),
    }
}

fn denied(
    key: &Key,
    previous: Option<&PreviousToken>,
    denial: Denial,
    question: &Question<'_>,
) -> String {
    let (address, model) = (question.address, question.model);
    match denial {
        Denial::InvalidApiKey if key.disabled() => "the key is disabled".to_owned(),
        Denial::InvalidApiKey => match previous {
            Some(previous) => {
                let end = previous.not_after();
                format!("this is the key's previous token, which ended at {end}")
            }
            None => "the key has another token".to_owned(),
        },
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
            ModelAccess::Exclusive(_) => match question.sent_as {
                Some(sent_as) if key.model_access().allows(model) => {
                    format!(
                        "{model:?} is an alias of {sent_as:?}, which is in the key's exclusive list"
                    )
                }
                Some(_) | None => format!("{model:?} is in the key's exclusive list"),
            },
            ModelAccess::All | ModelAccess::Inclusive(_) => {
                format!("{model:?} is not in the key's inclusive list")
            }
        },
        // These concern token and route, which this question does not contain.
        Denial::MissingApiKey | Denial::UnknownUrl | Denial::MethodNotAllowed { .. } => {
            denial.message().to_owned()
        }
    }
}

#[cfg(test)]
mod tests;
