//! What a request asks for: its body, read whole (step 6), and what follows from it: what it is expected to use, whether
//! its fields may pass, and what the gateway changes in it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::gateway::access_record::AccessRecord;
use crate::gateway::exchange::Exchange;
use crate::gateway::limits::ExpectedUse;
use crate::gateway::refusal::Refusal;
use crate::gateway::worker::Worker;
use crate::policy::body_fields::{self, CACHE_SALT, FieldDenial, NotedFields, Salt};
use crate::policy::decide::{Caller, Permit};
use crate::policy::documented_fields::Documented;
use crate::policy::field_kind::FieldKind;
use crate::policy::key::Key;
use crate::policy::route::{BodyKind, Endpoint};
use crate::policy::usage::RequestCounts;
use crate::request_body::coding;
use crate::request_body::collect::{self, CollectedBody};
use crate::request_body::edit::{self, BodyEdits};
use crate::request_body::model::{self, BodyFormat, ExtraModelFields, Places};
use crate::table::Entry;
use crate::upstream::Upstream;

/// The most characters of an unknown field's name that an error repeats.
const MAX_SHOWN_NAME: usize = 64;

/// What a request asks for, once its body is read: the very bytes that were checked, and the model they name.
pub(super) struct Asked {
    pub(super) body: CollectedBody,
    pub(super) model: Arc<str>,
    /// Who serves the model, by the catalogue.
    pub(super) upstream: Option<Arc<Upstream>>,
    /// The upstream's own name for the model, where that is an alias.
    pub(super) sent_as: Option<Arc<str>>,
    /// Where the body's parts are that the gateway may change.
    pub(super) places: Places,
    /// Fields that the upstream may not take.
    pub(super) noted: NotedFields,
    /// The path it goes to.
    pub(super) path: &'static str,
    /// When the body was there whole.
    pub(super) read_at: Instant,
    pub(super) is_decoded: bool,
    pub(super) format: BodyFormat,
}

/// Step 6: the body, whole, and the one model it names.
pub(super) async fn read<E: Exchange>(
    worker: &Rc<Worker>,
    endpoint: Endpoint,
    (caller, key): (Caller<'_>, &Arc<Entry>),
    exchange: &mut E,
    record: &mut AccessRecord,
) -> Result<Asked, Refusal> {
    let head = exchange.head();
    let fields = head.fields();
    let is_other = |expectation: &[u8]| !expectation.eq_ignore_ascii_case(b"100-continue");
    if fields.all(FieldKind::Expect).any(is_other) {
        return Err(Refusal::Expectation);
    }
    model::check_query(head.query())?;
    let content_type = fields.only(FieldKind::ContentType);
    let format = model::check_content_type(endpoint.body(), content_type)?;
    let coding = coding::of(fields.all(FieldKind::ContentEncoding))?;
    let entry = Rc::clone(exchange.timer_entry());
    let (limits, buffers, timer) = (&worker.settings.bodies, &worker.buffers, &worker.timer);
    let body = match coding {
        None => collect::collect(exchange, key, limits, buffers, timer, &entry).await?,
        // Boxed, so that a decoder's state makes no other request larger.
        Some(coding) => {
            Box::pin(collect::collect_decoded(
                exchange, coding, key, limits, buffers, timer, &entry,
            ))
            .await?
        }
    };
    let read_at = Instant::now();
    record.body(body.received());
    let extra_fields = match caller.judged().allows_all_models() {
        true => ExtraModelFields::Allowed,
        false => ExtraModelFields::Refused,
    };
    let routing = worker.fleet.routing();
    let documented = routing
        .refuses_unknown_fields()
        .then(|| Documented::of(endpoint));
    let facts = model::scan(&format, body.bytes(), extra_fields, documented)?;
    let (named, noted, places) = (facts.model, facts.noted, facts.places);
    // The catalogue's own name is shared; only a name that nobody serves is copied.
    let (model, upstream) = match routing.served(&named) {
        Some((model, upstream)) => (Arc::clone(model), Some(Arc::clone(upstream))),
        None => (Arc::from(&*named), None),
    };
    record.model(&model);
    Ok(Asked {
        body,
        sent_as: routing.sent_as(&model).cloned(),
        model,
        upstream,
        places,
        noted,
        path: endpoint.path(),
        read_at,
        is_decoded: coding.is_some(),
        format,
    })
}

impl Asked {
    /// What the request will probably use: a quarter of the bytes of a text, and the output that it asks for.
    pub(super) fn expected_use(&self, worker: &Worker, endpoint: Endpoint) -> ExpectedUse {
        let text_bytes = match endpoint.body() {
            BodyKind::Json => self.body.bytes().len() as u64,
            // Nearly all of a form is a file, whose bytes are no text.
            BodyKind::Multipart => 0,
        };
        let default_output = match endpoint.makes_text() {
            true => worker.prices.load().default_output(&self.model),
            false => 0,
        };
        let output = &self.places.output;
        let input = output.expected_input(text_bytes);
        let tokens = output.expected_tokens(text_bytes, default_output);
        let counts = RequestCounts {
            input: Some(input),
            output: Some(tokens - input),
            ..RequestCounts::UNKNOWN
        };
        ExpectedUse {
            input,
            tokens,
            cost: worker.prices.load().cost(&self.model, &counts),
        }
    }

    /// After step 7: the body's fields, by the rules of the upstream. Not before, so that nobody learns the rules of an
    /// upstream that the key may not use.
    pub(super) fn judge_fields(&self, upstream: &Upstream) -> Result<(), Refusal> {
        body_fields::judge(&self.noted, upstream.field_rules()).map_err(|denial| match denial {
            FieldDenial::State(field) => Refusal::StateField(field),
            FieldDenial::Engine(field) => Refusal::EngineField(field),
            FieldDenial::Unknown(place) => {
                let name = self.body.bytes().get(place).unwrap_or_default();
                Refusal::UnknownField(shown_name(name))
            }
        })
    }

    /// What the gateway changes in the body: the model, where the client named it by an alias; and the cache salt, where the
    /// upstream's config has the gateway set it.
    pub(super) fn body_edits(
        &self,
        permit: &Permit<Arc<Upstream>>,
        key: &Key,
    ) -> Result<BodyEdits, Refusal> {
        let mut edits = BodyEdits::default();
        if let Some(name) = permit.sent_as() {
            let text = match self.places.first_member {
                Some(_) => edit::json_string(name),
                None => name.to_owned(),
            };
            for length in &self.places.model_lengths {
                edits.replace(length.clone(), text.len().to_string());
            }
            edits.replace(self.places.model.clone(), text);
        }
        let upstream = permit.target();
        if let Some(first_member) = self.places.first_member
            && upstream.sets_cache_salt()
        {
            // Without its secret the upstream would mix the caches of all keys.
            let salt = upstream.cache_salt(key).ok_or(Refusal::Internal)?;
            let salt = edit::json_string(&salt);
            match self.noted.salt() {
                Salt::Absent => edits.insert_member(first_member, CACHE_SALT, &salt),
                Salt::Once(place) => edits.replace(place.clone(), salt),
                Salt::Several => return Err(Refusal::EngineField(CACHE_SALT)),
            }
        }
        Ok(edits)
    }
}

/// A field's name as it is written in the body, for a message: without control characters, and not long.
fn shown_name(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let visible =
        |letter: char| letter == ' ' || letter.is_ascii_graphic() || letter.is_alphanumeric();
    let mut shown: String = text
        .chars()
        .take(MAX_SHOWN_NAME)
        .map(|letter| {
            if visible(letter) {
                letter
            } else {
                char::REPLACEMENT_CHARACTER
            }
        })
        .collect();
    if text.chars().nth(MAX_SHOWN_NAME).is_some() {
        shown.push('…');
    }
    shown
}
