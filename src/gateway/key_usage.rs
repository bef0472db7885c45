//! `GET /v1/key/usage`: what a key used itself. The database is asked on a thread that may wait for the disk, so that the
//! worker's other requests go on.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use crate::gateway::exchange::Exchange;
use crate::gateway::local_responses::{LocalResponse, json};
use crate::gateway::refusal::Refusal;
use crate::gateway::worker::Worker;
use crate::http::usage_page::UsagePage;
use crate::http::usage_query::{Asker, UsageParameters};
use crate::policy::decide::Caller;
use crate::policy::time::UnixTime;
use crate::request_body::model;
use crate::store::database::DatabaseError;

/// The caller's own usage. None: its client has left.
///
/// # Errors
/// The query is wrong, or there is no database, or it cannot be read.
pub(super) async fn answer<E: Exchange>(
    worker: &Worker,
    caller: Caller<'_>,
    now: UnixTime,
    exchange: &mut E,
) -> Result<Option<LocalResponse>, Refusal> {
    let database = worker.database.as_ref().ok_or(Refusal::NoDatabase)?;
    let parameters = model::form_parameters(exchange.head().query().unwrap_or_default())
        .ok_or(Refusal::UndecodableQuery)?;
    let question = UsageParameters(&parameters).sums(Asker::Key, now, false);
    let mut question = question.map_err(Refusal::Query)?;
    // Only its own, whatever it asks.
    question.sums.keys = vec![caller.key().id().to_owned()];
    let (database, settings) = (Arc::clone(database), Arc::clone(&worker.settings));
    let turns = Arc::clone(&worker.usage_questions);
    let mut body = pin!(async move {
        // Held until the database has answered, even where the client leaves: so few threads wait for the disk at once.
        let turn = turns.acquire_owned().await.map_err(|_| Refusal::Internal)?;
        let ask = move || {
            let _turn = turn;
            let rows = database.sums(&question.sums)?;
            Ok(json(&UsagePage::of(&question, &rows, &settings.currency)))
        };
        let answered = tokio::task::spawn_blocking(ask).await;
        let answered = answered.map_err(|_| Refusal::Internal)?;
        answered.map_err(|_: DatabaseError| Refusal::DatabaseFailed)
    });
    let body = poll_fn(|cx| match body.as_mut().poll(cx) {
        Poll::Ready(body) => Poll::Ready(body.map(Some)),
        Poll::Pending => exchange.poll_closed(cx).map(|()| Ok(None)),
    });
    let body = body.await?;
    Ok(body.map(|body| LocalResponse::of_json(body, &worker.buffers)))
}
