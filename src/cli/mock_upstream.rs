//! A mock upstream for the demo: an OpenAI-compatible server that streams a few words, as a model would. The gateway
//! reaches it over a socket like any upstream.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// The models that it lists.
pub(super) const MODELS: [&str; 2] = ["stand-in", "stand-in-large"];
/// The time between two words.
const WORD_INTERVAL: Duration = Duration::from_millis(60);
const MAX_BODY: usize = 32 << 20;
/// Real embeddings have more numbers; a few are enough for a demo.
const DIMENSIONS: usize = 8;

/// Starts the server on its own thread, which ends with the process.
///
/// # Errors
/// No port or no thread is available.
pub(super) fn start() -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("stand-in".into())
        .spawn(move || {
            LocalSet::new().block_on(&runtime, async {
                let Ok(listener) = TcpListener::from_std(listener) else {
                    return;
                };
                while let Ok((socket, _)) = listener.accept().await {
                    let connection = http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service_fn(answer));
                    // An error means that the client left early, which is normal.
                    tokio::task::spawn_local(async { drop(connection.await) });
                }
            });
        })?;
    Ok(address)
}

async fn answer(request: Request<Incoming>) -> Result<Response<MockBody>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = Limited::new(request.into_body(), MAX_BODY)
        .collect()
        .await
        .map(|body| body.to_bytes());
    let asked: Value = body
        .ok()
        .and_then(|body| serde_json::from_slice(&body).ok())
        .unwrap_or_default();
    Ok(match (method, path.as_str()) {
        (Method::GET, "/v1/models") => {
            let models = MODELS.map(
                |id| json!({"id": id, "object": "model", "created": 0, "owned_by": "stand-in"}),
            );
            whole(StatusCode::OK, &json!({"object": "list", "data": models}))
        }
        (Method::POST, "/v1/chat/completions") if asked["stream"] == true => streamed(&asked),
        (Method::POST, "/v1/chat/completions") => whole(StatusCode::OK, &completion(&asked)),
        (Method::POST, "/v1/embeddings") => whole(StatusCode::OK, &embeddings(&asked)),
        _ => {
            let message = "The stand-in knows chat completions, embeddings and its models; a real server knows more.";
            let error = json!({"message": message, "type": "invalid_request_error", "param": null, "code": "unknown_url"});
            whole(StatusCode::NOT_FOUND, &json!({ "error": error }))
        }
    })
}

/// The text of the response. It repeats the last message, so that users see their own words come back.
fn reply_to(asked: &Value) -> String {
    let question = asked["messages"]
        .as_array()
        .and_then(|messages| messages.last());
    let question = question
        .and_then(|message| message["content"].as_str())
        .unwrap_or("nothing");
    let question: String = question.chars().take(200).collect();
    format!(
        "You said: \"{question}\". I am only a stand-in for a model, but everything between you and me is real: \
         your key was checked, your request was forwarded, and these words stream back one by one."
    )
}

fn completion(asked: &Value) -> Value {
    let reply = reply_to(asked);
    let usage = usage_of(&reply);
    json!({
        "id": "chatcmpl-stand-in", "object": "chat.completion", "created": 0, "model": asked["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}],
        "usage": usage,
    })
}

/// A word is a token.
fn usage_of(reply: &str) -> Value {
    let tokens = reply.split_whitespace().count();
    json!({"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1})
}

fn embeddings(asked: &Value) -> Value {
    let inputs = match &asked["input"] {
        Value::Array(inputs) => inputs.clone(),
        one => vec![one.clone()],
    };
    let embed = |(index, input): (usize, &Value)| {
        let hash = blake3::hash(input.to_string().as_bytes());
        let numbers: Vec<f64> = hash.as_bytes()[..DIMENSIONS]
            .iter()
            .map(|byte| f64::from(*byte) / 255.0)
            .collect();
        json!({"object": "embedding", "index": index, "embedding": numbers})
    };
    let data: Vec<Value> = inputs.iter().enumerate().map(embed).collect();
    json!({
        "object": "list", "model": asked["model"], "data": data,
        "usage": {"prompt_tokens": inputs.len(), "total_tokens": inputs.len()},
    })
}

fn streamed(asked: &Value) -> Response<MockBody> {
    let chunk = |delta: Value, finish: Value| {
        let chunk = json!({
            "id": "chatcmpl-stand-in", "object": "chat.completion.chunk", "created": 0, "model": asked["model"],
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        });
        Bytes::from(format!("data: {chunk}\n\n"))
    };
    let reply = reply_to(asked);
    let words = reply
        .split_inclusive(' ')
        .map(|word| chunk(json!({ "content": word }), Value::Null));
    let first = chunk(json!({"role": "assistant", "content": ""}), Value::Null);
    let usage = (asked["stream_options"]["include_usage"] == true).then(|| {
        let usage = json!({
            "id": "chatcmpl-stand-in", "object": "chat.completion.chunk", "created": 0, "model": asked["model"],
            "choices": [], "usage": usage_of(&reply),
        });
        Bytes::from(format!("data: {usage}\n\n"))
    });
    let last = [
        Some(chunk(json!({}), json!("stop"))),
        usage,
        Some(Bytes::from_static(b"data: [DONE]\n\n")),
    ];
    let chunks: Vec<Bytes> = std::iter::once(first)
        .chain(words)
        .chain(last.into_iter().flatten())
        .collect();
    let mut pace = interval(WORD_INTERVAL);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut response = Response::new(MockBody::Paced(chunks.into_iter(), pace));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

fn whole(status: StatusCode, body: &Value) -> Response<MockBody> {
    let mut response = Response::new(MockBody::Whole(body.to_string().into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A response body: all at once, or one word at a time.
enum MockBody {
    Whole(Full<Bytes>),
    Paced(std::vec::IntoIter<Bytes>, Interval),
}

impl Body for MockBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Paced(words, pace) => {
                ready!(pace.poll_tick(cx));
                Poll::Ready(words.next().map(|word| Ok(Frame::data(word))))
            }
        }
    }
}
