//! The request that the load sends: what OpenAI's Python library sends, with a token that changes from request to
//! request.

use std::fs;

use crate::Fault;
use crate::materials::mixed;
use crate::options::Options;

const BEARER: &str = "Bearer ";
const MODEL: &str = "stand-in";

pub(crate) struct Requests {
    /// A whole request, head and body, with room for a token.
    bytes: Vec<u8>,
    token_at: usize,
    tokens: Vec<Vec<u8>>,
    random: u64,
}

impl Requests {
    pub(crate) fn new(options: &Options, authority: &str) -> Result<Self, Fault> {
        let tokens: Vec<Vec<u8>> = match options.text("tokens") {
            Some(file) => fs::read_to_string(file)?
                .lines()
                .map(|line| line.as_bytes().to_vec())
                .collect(),
            None => vec![options.required("token")?.as_bytes().to_vec()],
        };
        let length = tokens.first().map_or(0, Vec::len);
        if length == 0 || tokens.iter().any(|token| token.len() != length) {
            return Err("tokens must all be of one length".into());
        }
        let stream = options.text("stream");
        let body = body(options.number("body", 2048)?, MODEL, stream.is_some());
        let mut head = format!("POST /v1/chat/completions HTTP/1.1\r\nHost: {authority}\r\n");
        for header in options
            .text("more")
            .unwrap_or_default()
            .split_terminator('|')
        {
            head.push_str(&format!("{header}\r\n"));
        }
        head.push_str(&format!("Authorization: {BEARER}"));
        let token_at = head.len();
        head.extend(std::iter::repeat_n('x', length));
        head.push_str("\r\n");
        if options.text("headers") != Some("few") {
            head.push_str(LIBRARY_HEADERS);
        }
        if let Some(stream) = stream {
            head.push_str(&format!("Stand-In: {stream}\r\n"));
        }
        head.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
        Ok(Self {
            bytes: (head + &body).into_bytes(),
            token_at,
            tokens,
            random: 1,
        })
    }

    /// The next request, with any one of the tokens.
    pub(crate) fn next(&mut self) -> &[u8] {
        let pick = mixed(&mut self.random) % self.tokens.len() as u64;
        let token = &self.tokens[usize::try_from(pick).unwrap_or(0)];
        self.bytes[self.token_at..self.token_at + token.len()].copy_from_slice(token);
        &self.bytes
    }
}

/// The body alone.
pub(crate) fn print_body(options: &Options) -> Result<(), Fault> {
    print!("{}", body(options.number("bytes", 2048)?, MODEL, false));
    Ok(())
}

/// What the library sends besides, in the same order of magnitude: fourteen headers in all.
const LIBRARY_HEADERS: &str = "Accept: application/json\r\n\
    Accept-Encoding: gzip, deflate\r\n\
    User-Agent: OpenAI/Python 2.54.0\r\n\
    X-Stainless-Lang: python\r\n\
    X-Stainless-Package-Version: 2.54.0\r\n\
    X-Stainless-OS: Linux\r\n\
    X-Stainless-Arch: x64\r\n\
    X-Stainless-Runtime: CPython\r\n\
    X-Stainless-Runtime-Version: 3.11.7\r\n\
    X-Stainless-Async: false\r\n\
    x-stainless-retry-count: 0\r\n\
    x-stainless-read-timeout: 600\r\n";

/// A chat of about so many bytes: turns of some hundred bytes of prose, with the escapes and letters that prose has.
fn body(bytes: usize, model: &str, stream: bool) -> String {
    const PROSE: &str = "Please explain how a reverse proxy decides which of its servers gets a request, and why that \
        choice matters when one of them is slow.\\nUse an example; call it \\\"the queue at the café\\\".\\n\\nKeep it \
        short – a few sentences will do, then list what you left out. ";
    let end = format!(r#"],"model":"{model}","stream":{stream},"temperature":0.7}}"#);
    let mut body =
        String::from(r#"{"messages":[{"role":"system","content":"You are a helpful assistant."}"#);
    let roles = ["user", "assistant"];
    for role in roles.iter().cycle() {
        let start = format!(r#",{{"role":"{role}","content":""#);
        let room = bytes.saturating_sub(body.len() + start.len() + 2 + end.len());
        if room < PROSE.len() {
            break;
        }
        body.push_str(&start);
        // Turns of one to four paragraphs.
        for _ in 0..(body.len() % 4 + 1).min(room / PROSE.len()) {
            body.push_str(PROSE);
        }
        body.push_str("\"}");
    }
    let start = r#",{"role":"user","content":""#;
    let room = bytes.saturating_sub(body.len() + start.len() + 2 + end.len());
    body.push_str(start);
    body.extend(std::iter::repeat_n('a', room));
    body.push_str("\"}");
    body + &end
}
