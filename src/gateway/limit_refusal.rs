//! Why a limit or a budget refuses a request, and what the answer says of it.

use std::fmt;

use http::StatusCode;

use crate::http::fields::Fields;
use crate::policy::budget::BudgetUnit;
use crate::policy::limit_terms::LimitError;
use crate::policy::rate_limit::RateLimitError;
use crate::table::LimitHolder;

/// A limit or a budget of a key or of its account refuses a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct LimitRefusal {
    error: LimitError,
    /// How an answer calls what the limit is on.
    whose: &'static str,
}

impl LimitRefusal {
    /// A limit of this key or account refuses.
    pub(super) fn of(error: LimitError, holder: &LimitHolder) -> Self {
        let whose = match holder {
            LimitHolder::Key(_) => "This API key",
            LimitHolder::Account(..) => "The account of this API key",
        };
        Self { error, whose }
    }

    /// It is not known what was spent of a budget.
    pub(super) fn unavailable(holder: &LimitHolder) -> Self {
        Self::of(LimitError::Unavailable, holder)
    }

    /// The code of the answer.
    pub(super) fn code(&self) -> &'static str {
        match self.error {
            LimitError::Rate(RateLimitError::TooLarge) => "request_too_large_for_limit",
            LimitError::Rate(_) => "rate_limit_exceeded",
            LimitError::Budget { .. } => "insufficient_quota",
            LimitError::Unavailable => "limits_unavailable",
        }
    }

    /// The status of the answer.
    pub(super) fn status(&self) -> StatusCode {
        match self.error {
            // It fits at no time: a client that waits would wait for ever.
            LimitError::Rate(RateLimitError::TooLarge) => StatusCode::BAD_REQUEST,
            LimitError::Rate(_) | LimitError::Budget { .. } => StatusCode::TOO_MANY_REQUESTS,
            LimitError::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What is limited, as OpenAI's `type` has it.
    pub(super) fn kind(&self) -> Option<&'static str> {
        match self.error {
            LimitError::Rate(RateLimitError::Requests { .. } | RateLimitError::Concurrent) => {
                Some("requests")
            }
            LimitError::Rate(RateLimitError::Tokens { .. }) => Some("tokens"),
            LimitError::Budget { .. } => Some("insufficient_quota"),
            LimitError::Rate(RateLimitError::TooLarge) | LimitError::Unavailable => None,
        }
    }

    /// Adds when to try again, or that trying again is of no use.
    pub(super) fn add_fields(&self, fields: &mut Fields) {
        match self.error {
            // OpenAI's libraries try no request again that has this.
            LimitError::Budget { .. } => fields.push("x-should-retry", b"false"),
            LimitError::Rate(error) => {
                if let Some(millis) = error.retry_after() {
                    fields.push("retry-after", millis.div_ceil(1000).to_string().as_bytes());
                    fields.push("retry-after-ms", millis.to_string().as_bytes());
                }
            }
            LimitError::Unavailable => {}
        }
    }
}

impl fmt::Display for LimitRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = self.whose;
        match self.error {
            LimitError::Budget { unit, resets_at } => {
                let unit = match unit {
                    BudgetUnit::Tokens => "tokens",
                    BudgetUnit::Requests => "requests",
                    BudgetUnit::Cost => "cost",
                    BudgetUnit::AudioSeconds => "audio",
                };
                write!(
                    f,
                    "{whose} has used up its budget of {unit}, or has too little of it left for this request. "
                )?;
                match resets_at {
                    Some(time) => {
                        write!(
                            f,
                            "It begins anew at {time}. Ask the operator for more before."
                        )
                    }
                    None => f.write_str("Ask the operator for more."),
                }
            }
            LimitError::Unavailable => write!(
                f,
                "The gateway cannot read how much has been used. {whose} has limits or a budget. Try again later; if it \
                 stays so, tell the operator."
            ),
            LimitError::Rate(RateLimitError::Requests { .. }) => write!(
                f,
                "{whose} has used up its requests for this minute. Wait as long as the header Retry-After says, then send \
                 it again."
            ),
            LimitError::Rate(RateLimitError::Tokens { .. }) => write!(
                f,
                "{whose} has used up its tokens for this minute, or this request would. Wait as long as the header \
                 Retry-After says, or ask for less output in max_tokens."
            ),
            LimitError::Rate(RateLimitError::Concurrent) => write!(
                f,
                "{whose} has as many requests running as it may have at the same time. Send this one when another has \
                 ended."
            ),
            LimitError::Rate(RateLimitError::TooLarge) => write!(
                f,
                "{whose} may use fewer tokens in a whole minute than this request could. Send less text, or ask for less \
                 output in max_tokens."
            ),
        }
    }
}
