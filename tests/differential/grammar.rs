//! Cases: requests as clients write them, with none, one or a few things wrong. A case is a function of the seed and
//! its number, so that each can be had alone.

use crate::dice::{Dice, mutate};

/// The bytes of one connection, and what was done to them.
pub struct Case {
    pub bytes: Vec<u8>,
    /// The names of the mutations, see [`MUTATIONS`].
    pub mutations: Vec<&'static str>,
}

/// What makes a request one that a gateway forwards.
#[derive(Clone)]
pub struct Credentials {
    pub token: String,
    pub model: String,
}

impl Default for Credentials {
    fn default() -> Self {
        Self {
            token: "kg_none".to_owned(),
            model: "good".to_owned(),
        }
    }
}

pub struct Line {
    name: Vec<u8>,
    colon: &'static str,
    value: Vec<u8>,
    end: &'static str,
}

impl Line {
    fn new(name: &str, value: &str) -> Self {
        Self {
            name: name.into(),
            colon: ": ",
            value: value.into(),
            end: "\r\n",
        }
    }

    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

pub struct Chunk {
    size: Vec<u8>,
    extension: Vec<u8>,
    line_end: &'static str,
    data: Vec<u8>,
    data_end: &'static str,
}

impl Chunk {
    fn of(data: &[u8]) -> Self {
        Self {
            size: format!("{:x}", data.len()).into_bytes(),
            extension: Vec::new(),
            line_end: "\r\n",
            data: data.to_vec(),
            data_end: "\r\n",
        }
    }
}

enum Body {
    Plain(Vec<u8>),
    /// The last chunk has no data and no end of it.
    Chunked {
        chunks: Vec<Chunk>,
        trailers: Vec<Line>,
        end: &'static str,
    },
}

/// A request in the parts that mutations change.
pub struct Message {
    before: Vec<u8>,
    method: Vec<u8>,
    first_gap: Vec<u8>,
    target: Vec<u8>,
    second_gap: Vec<u8>,
    version: Vec<u8>,
    line_end: &'static str,
    lines: Vec<Line>,
    head_end: &'static str,
    body: Body,
    /// The body without its framing.
    content: Vec<u8>,
}

impl Message {
    fn new(dice: &mut Dice, credentials: &Credentials, is_last: bool) -> Self {
        let content = content(dice, credentials);
        let mut lines = vec![
            Line::new(
                "Host",
                dice.pick(&["localhost", "localhost:8080", "[::1]", "a.b"]),
            ),
            Line::new("Authorization", &format!("Bearer {}", credentials.token)),
            Line::new("Content-Type", "application/json"),
        ];
        let mut message = Self {
            before: Vec::new(),
            method: b"POST".to_vec(),
            first_gap: b" ".to_vec(),
            target: dice
                .pick(&[
                    "/v1/chat/completions",
                    "/v1/chat/completions",
                    "/v1/chat/completions?a=b&c=%20",
                    "/v1/embeddings?",
                ])
                .into(),
            second_gap: b" ".to_vec(),
            version: b"HTTP/1.1".to_vec(),
            line_end: "\r\n",
            lines: Vec::new(),
            head_end: "\r\n",
            body: Body::Plain(content.clone()),
            content,
        };
        for _ in 0..dice.roll(4) {
            lines.push(valid_line(dice));
        }
        match dice.roll(16) {
            0 => {
                message.method = b"GET".to_vec();
                message.target = b"/v1/models".to_vec();
                message.content.clear();
                message.body = Body::Plain(Vec::new());
            }
            1..7 => {
                lines.push(Line::new("Transfer-Encoding", "chunked"));
                message.lines = lines;
                message.make_chunked(dice);
                lines = message.lines;
            }
            _ => lines.push(Line::new(
                "Content-Length",
                &message.content.len().to_string(),
            )),
        }
        for line in &mut lines {
            match dice.roll(192) {
                0..8 => line.name.make_ascii_lowercase(),
                8..16 => line.name.make_ascii_uppercase(),
                16..24 => line.colon = ":",
                24..32 => line.colon = ":  ",
                32..40 => line.value.extend_from_slice(b" "),
                // nginx takes no tab there, so they are rare.
                40 => line.colon = ":\t",
                41 => line.colon = ": \t ",
                42 => line.value.extend_from_slice(b"\t "),
                _ => {}
            }
        }
        if is_last {
            lines.push(Line::new("Connection", "close"));
        }
        // Their order means nothing but for Host, which some look at first.
        let at = 1 + dice.roll(lines.len() - 1);
        let end = lines.len() - 1;
        lines.swap(at, end);
        message.lines = lines;
        message
    }

    fn make_chunked(&mut self, dice: &mut Dice) {
        if matches!(self.body, Body::Chunked { .. }) {
            return;
        }
        self.lines.retain(|line| !line.is("content-length"));
        if !self.lines.iter().any(|line| line.is("transfer-encoding")) {
            self.lines.push(Line::new("Transfer-Encoding", "chunked"));
        }
        let mut chunks = Vec::new();
        let mut rest = self.content.as_slice();
        while !rest.is_empty() {
            let length = 1 + dice.roll(rest.len());
            let (data, behind) = rest.split_at(length);
            let mut chunk = Chunk::of(data);
            match dice.roll(12) {
                0 => chunk.size.make_ascii_uppercase(),
                1 => chunk.size.insert(0, b'0'),
                2 => chunk.extension = dice.pick(&VALID_EXTENSIONS).into(),
                _ => {}
            }
            chunks.push(chunk);
            rest = behind;
        }
        let mut last = Chunk::of(b"");
        last.data_end = "";
        chunks.push(last);
        let mut trailers = Vec::new();
        if dice.roll(8) == 0 {
            trailers.push(Line::new("X-Checksum", "1234"));
        }
        self.body = Body::Chunked {
            chunks,
            trailers,
            end: "\r\n",
        };
    }

    /// One of the chunks, and where it stands.
    fn chunk(&mut self, dice: &mut Dice) -> &mut Chunk {
        self.make_chunked(dice);
        let Body::Chunked { chunks, .. } = &mut self.body else {
            unreachable!("just made so")
        };
        let at = dice.roll(chunks.len());
        &mut chunks[at]
    }

    fn last_chunk(&mut self, dice: &mut Dice) -> (&mut Chunk, &mut Vec<Line>, &mut &'static str) {
        self.make_chunked(dice);
        let Body::Chunked {
            chunks,
            trailers,
            end,
        } = &mut self.body
        else {
            unreachable!("just made so")
        };
        (chunks.last_mut().expect("the last"), trailers, end)
    }

    fn line(&mut self, dice: &mut Dice) -> &mut Line {
        let at = dice.roll(self.lines.len());
        &mut self.lines[at]
    }

    fn insert(&mut self, dice: &mut Dice, line: Line) {
        let at = dice.roll(self.lines.len() + 1);
        self.lines.insert(at, line);
    }

    /// Turns a body without a length into one with it.
    fn make_plain(&mut self) {
        self.lines
            .retain(|line| !line.is("content-length") && !line.is("transfer-encoding"));
        self.lines
            .push(Line::new("Content-Length", &self.content.len().to_string()));
        self.body = Body::Plain(self.content.clone());
    }

    /// The line that frames the body.
    fn framing(&mut self) -> &mut Line {
        let found = self
            .lines
            .iter()
            .position(|line| line.is("content-length") || line.is("transfer-encoding"));
        if found.is_none() {
            self.make_plain();
        }
        let at = found.unwrap_or(self.lines.len() - 1);
        &mut self.lines[at]
    }

    fn write(&self, to: &mut Vec<u8>) {
        for part in [
            &self.before,
            &self.method,
            &self.first_gap,
            &self.target,
            &self.second_gap,
            &self.version,
        ] {
            to.extend_from_slice(part);
        }
        to.extend_from_slice(self.line_end.as_bytes());
        write_lines(&self.lines, to);
        to.extend_from_slice(self.head_end.as_bytes());
        match &self.body {
            Body::Plain(content) => to.extend_from_slice(content),
            Body::Chunked {
                chunks,
                trailers,
                end,
            } => {
                for chunk in chunks {
                    to.extend_from_slice(&chunk.size);
                    to.extend_from_slice(&chunk.extension);
                    to.extend_from_slice(chunk.line_end.as_bytes());
                    to.extend_from_slice(&chunk.data);
                    to.extend_from_slice(chunk.data_end.as_bytes());
                }
                write_lines(trailers, to);
                to.extend_from_slice(end.as_bytes());
            }
        }
    }
}

fn write_lines(lines: &[Line], to: &mut Vec<u8>) {
    for line in lines {
        to.extend_from_slice(&line.name);
        to.extend_from_slice(line.colon.as_bytes());
        to.extend_from_slice(&line.value);
        to.extend_from_slice(line.end.as_bytes());
    }
}

/// JSON with a model, some of it with line ends and blanks between its parts; now and then something that would be a
/// request if it were taken for one.
fn content(dice: &mut Dice, credentials: &Credentials) -> Vec<u8> {
    let model = &credentials.model;
    match dice.roll(8) {
        0 => format!("{{\r\n\"model\" : \"{model}\"\r\n\r\n}}"),
        1 => format!(
            "{{\"model\":\"{model}\",\"input\":\"{}\"}}",
            "x".repeat(dice.roll(300))
        ),
        2 => format!("{{\"model\":\"{model}\",\"a\":\r\n0\r\n\r\n}}"),
        3 => "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        4 => "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        _ => format!("{{\"model\":\"{model}\"}}"),
    }
    .into_bytes()
}

fn valid_line(dice: &mut Dice) -> Line {
    let (name, value) = [
        ("User-Agent", "curl/8"),
        ("Accept", "*/*"),
        ("X-Title", "a \"b\" c"),
        ("X-Empty", ""),
        ("Connection", "keep-alive"),
        ("Connection", "Keep-Alive, TE"),
        ("TE", "trailers"),
        ("Cookie", "a=b"),
        ("Expect", "100-continue"),
        ("Upgrade", "h2c"),
        ("X-Latin", "\u{e4}"),
        ("X_Under", "1"),
        ("!#$%&'*+-.^_`|~0", "token"),
        ("Accept-Encoding", "gzip, br"),
        ("X-Forwarded-For", "192.0.2.7"),
    ][dice.roll(15)];
    Line::new(name, value)
}

const VALID_EXTENSIONS: [&str; 6] = [
    ";a",
    ";a=b",
    ";a=\"b c\"",
    ";a;b=c",
    " ; a = b",
    "\t;x=\"\\\"\"",
];

/// A mutation: what it is called, its weight, what it does. The name says the class of a difference.
pub struct Mutation {
    pub name: &'static str,
    /// Why a strict reader may refuse what others take.
    pub why: &'static str,
    weight: usize,
    apply: fn(&mut Dice, &mut Message),
}

/// Bytes that belong into no name, and some that belong into no value.
const ODD: [&[u8]; 22] = [
    b"\0",
    b"\x01",
    b"\x0b",
    b"\x0c",
    b"\x1f",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xc3\xa4",
    b" ",
    b"\t",
    b"(",
    b")",
    b",",
    b"/",
    b";",
    b"=",
    b"@",
    b"[",
    b"\\",
    b"\"",
    b"{",
];

fn odd(dice: &mut Dice) -> &'static [u8] {
    ODD[dice.roll(ODD.len())]
}

fn insert_odd(dice: &mut Dice, into: &mut Vec<u8>) {
    let at = dice.roll(into.len() + 1);
    let bytes = odd(dice);
    into.splice(at..at, bytes.iter().copied());
}

/// A value out of a list, with `{n}` for the length.
fn length_value(dice: &mut Dice, length: usize) -> String {
    dice.pick(&[
        "+{n}",
        "-{n}",
        "-0",
        "0x{n}",
        "0{n}",
        "0000000000000000000000{n}",
        "{n}.0",
        "{n};",
        "",
        " ",
        "{n} {n}",
        "1_0",
        "{n}, {n}",
        "{n},{n}",
        "{n}, 0",
        ",{n}",
        "{n},",
        "18446744073709551616",
        "99999999999999999999",
        "9223372036854775808",
        "{n}e0",
        "\u{b}{n}",
        "{n}\u{b}",
        "{n}a",
        "a",
        "\u{661}",
        "\"{n}\"",
        "0",
        "1",
    ])
    .replace("{n}", &length.to_string())
}

pub const MUTATIONS: [Mutation; 40] = [
    Mutation {
        name: "bare LF",
        why: "RFC 9112 2.2 lets a recipient take a lone LF as a line's end; whoever doesn't can't be made to disagree about lines",
        weight: 4,
        apply: |dice, message| match dice.roll(4) {
            0 => message.line_end = "\n",
            1 => message.head_end = "\n",
            2 => {
                message.line_end = "\n";
                message.head_end = "\n";
                for line in &mut message.lines {
                    line.end = "\n";
                }
            }
            _ => message.line(dice).end = "\n",
        },
    },
    Mutation {
        name: "bare CR",
        why: "RFC 9112 2.2: a bare CR is invalid, or a blank",
        weight: 3,
        apply: |dice, message| match dice.roll(5) {
            0 => message.line_end = "\r",
            1 => message.head_end = ["\r", "\r\r\n", "\n\r\n"][dice.roll(3)],
            2 => message.line(dice).end = "\r\r\n",
            3 => message.line(dice).end = "\r",
            _ => {
                let line = message.line(dice);
                let at = dice.roll(line.value.len() + 1);
                line.value.insert(at, b'\r');
            }
        },
    },
    Mutation {
        name: "obs-fold",
        why: "RFC 9112 5.2: a server must refuse a folded line or make it blanks",
        weight: 3,
        apply: |dice, message| {
            let folded = dice
                .pick(&["\r\n ", "\r\n\t", "\n ", "\r\n \r\n "])
                .as_bytes()
                .to_vec();
            let line = if dice.roll(2) == 0 {
                message.framing()
            } else {
                message.line(dice)
            };
            let at = dice.roll(line.value.len() + 1);
            line.value.splice(at..at, folded);
        },
    },
    Mutation {
        name: "blank before a colon",
        why: "RFC 9112 5.1: a server must refuse it",
        weight: 3,
        apply: |dice, message| {
            let colon = [" : ", "\t: ", " :", "  :", "\u{b}:"][dice.roll(5)];
            if dice.roll(2) == 0 {
                message.framing().colon = colon
            } else {
                message.line(dice).colon = colon
            }
        },
    },
    Mutation {
        name: "blank before a name",
        why: "RFC 9112 2.2: a line that begins with a blank is refused or dropped",
        weight: 2,
        apply: |dice, message| {
            let blank = *b" \t".get(dice.roll(2)).unwrap_or(&b' ');
            if dice.roll(2) == 0 {
                message.lines[0].name.insert(0, blank)
            } else {
                message.line(dice).name.insert(0, blank)
            }
        },
    },
    Mutation {
        name: "no header line",
        why: "a line without a name or colon is not a header",
        weight: 2,
        apply: |dice, message| {
            let (name, colon) = [
                ("nothing", ""),
                ("", ": "),
                ("", ""),
                ("Content-Length 5", ""),
                (" ", ""),
                ("GET / HTTP/1.1", ""),
                ("=", ""),
            ][dice.roll(7)];
            let mut line = Line::new(name, "");
            line.colon = if colon.is_empty() { "" } else { ":" };
            message.insert(dice, line);
        },
    },
    Mutation {
        name: "odd byte in a name",
        why: "RFC 9110 5.1: a name is a token",
        weight: 3,
        apply: |dice, message| {
            let line = if dice.roll(2) == 0 {
                message.framing()
            } else {
                message.line(dice)
            };
            insert_odd(dice, &mut line.name);
        },
    },
    Mutation {
        name: "odd byte in a value",
        why: "RFC 9110 5.5: CR, LF and NUL are refused or made blanks, other control bytes are invalid",
        weight: 3,
        apply: |dice, message| {
            let line = message.line(dice);
            insert_odd(dice, &mut line.value);
        },
    },
    Mutation {
        name: "two lengths",
        why: "RFC 9112 6.3: lengths that differ are refused; a list of the same may be",
        weight: 4,
        apply: |dice, message| {
            message.make_plain();
            let length = message.content.len();
            let value = if dice.roll(3) == 0 {
                length.to_string()
            } else {
                length_value(dice, length)
            };
            message.insert(dice, Line::new("Content-Length", &value));
        },
    },
    Mutation {
        name: "odd length",
        why: "RFC 9110 8.6: a length is digits",
        weight: 5,
        apply: |dice, message| {
            message.make_plain();
            let length = message.content.len();
            message.framing().value = length_value(dice, length).into_bytes();
        },
    },
    Mutation {
        name: "wrong length",
        why: "the bytes behind are no request",
        weight: 2,
        apply: |dice, message| {
            message.make_plain();
            let length = message.content.len();
            let wrong = if dice.roll(2) == 0 {
                length + 1 + dice.roll(40)
            } else {
                length.saturating_sub(1 + dice.roll(4))
            };
            message.framing().value = wrong.to_string().into_bytes();
        },
    },
    Mutation {
        name: "no length",
        why: "the bytes behind are no request",
        weight: 1,
        apply: |_, message| {
            message
                .lines
                .retain(|line| !line.is("content-length") && !line.is("transfer-encoding"));
        },
    },
    Mutation {
        name: "length and chunked",
        why: "RFC 9112 6.1: may be refused, and is the oldest way to smuggle",
        weight: 4,
        apply: |dice, message| {
            message.make_chunked(dice);
            let length = match dice.roll(3) {
                0 => "0".to_owned(),
                1 => message.content.len().to_string(),
                _ => length_value(dice, message.content.len()),
            };
            message.insert(dice, Line::new("Content-Length", &length));
        },
    },
    Mutation {
        name: "odd transfer coding",
        why: "RFC 9112 6.1: whoever doesn't understand a coding refuses it",
        weight: 5,
        apply: |dice, message| {
            message.make_chunked(dice);
            let value = dice.pick(&[
                "Chunked",
                "CHUNKED",
                "chunked, chunked",
                "gzip, chunked",
                "chunked, gzip",
                "chunked, identity",
                "identity",
                "identity, chunked",
                "xchunked",
                "chunkedx",
                "chunked;q=1",
                "chunked ;a",
                "\"chunked\"",
                "chunked\t",
                ",chunked",
                "chunked,",
                " , chunked",
                "\u{b}chunked",
                "chunked\u{b}",
                "",
                "chunk",
                "chun ked",
                "'chunked'",
                "chunked\0",
                "x, chunked",
                "gzip",
                "deflate, chunked",
                "chunked chunked",
                "\u{212a}chunked",
                "chun\u{212a}ed",
            ]);
            message.framing().value = value.into();
        },
    },
    Mutation {
        name: "two transfer codings",
        why: "RFC 9112 6.1: chunked is applied once",
        weight: 3,
        apply: |dice, message| {
            message.make_chunked(dice);
            let value = dice.pick(&[
                "chunked",
                "identity",
                "gzip",
                "",
                "x",
                "cow",
                "chunked, identity",
            ]);
            let name = dice_name(dice);
            message.insert(dice, Line::new(name, value));
        },
    },
    Mutation {
        name: "chunked in HTTP/1.0",
        why: "RFC 9112 6.1: a server must treat such a message as faulty",
        weight: 2,
        apply: |dice, message| {
            message.make_chunked(dice);
            message.version = b"HTTP/1.0".to_vec();
        },
    },
    Mutation {
        name: "odd name of framing",
        why: "names that only look like those that frame a body",
        weight: 3,
        apply: |dice, message| {
            let (name, value) = [
                ("Content_Length", "3"),
                ("Transfer_Encoding", "chunked"),
                ("Content-Length\0", "3"),
                ("Content-Length\u{b}", "3"),
                ("Content\u{2010}Length", "3"),
                ("Content-\u{17f}ength", "3"),
                ("Tran\u{17f}fer-Encoding", "chunked"),
                ("xContent-Length", "3"),
                ("Content-Lengths", "3"),
                ("Content-Length:", "3"),
                ("\u{feff}Content-Length", "3"),
                ("Transfer-Encoding\r", "chunked"),
                ("Content Length", "3"),
                ("X:Transfer-Encoding", "chunked"),
                ("\"Content-Length\"", "3"),
            ][dice.roll(15)];
            message.insert(dice, Line::new(name, value));
        },
    },
    Mutation {
        name: "odd version",
        why: "only HTTP/1.0 and HTTP/1.1, in capitals, are versions of this protocol",
        weight: 4,
        apply: |dice, message| {
            message.version = dice
                .pick(&[
                    "HTTP/1.0",
                    "HTTP/1.2",
                    "HTTP/1.9",
                    "HTTP/2.0",
                    "HTTP/3.0",
                    "HTTP/0.9",
                    "http/1.1",
                    "Http/1.1",
                    "HTTP/1.1 ",
                    "HTTP/01.1",
                    "HTTP/1.10",
                    "HTTP/1.01",
                    "HTTP/11",
                    "HTTP/1",
                    "HTTP/1.",
                    "HTTP/",
                    "HTTP",
                    "",
                    "HTTP/1.1x",
                    "HTTP/1,1",
                    "HTTP /1.1",
                    "HTTP/ 1.1",
                    "HTTP/+1.1",
                    "HTTP/1.1\t",
                    "HTTP/1.1 HTTP/1.1",
                    "ICY",
                    "HTTPS/1.1",
                    "HTTP/1.1\0",
                ])
                .into();
        },
    },
    Mutation {
        name: "HTTP/1.0",
        why: "an old client",
        weight: 2,
        apply: |dice, message| {
            message.version = b"HTTP/1.0".to_vec();
            if dice.roll(2) == 0 {
                message.insert(dice, Line::new("Connection", "keep-alive"))
            }
        },
    },
    Mutation {
        name: "not origin-form",
        why: "the gateway serves its own paths alone",
        weight: 3,
        apply: |dice, message| {
            message.target = dice
                .pick(&[
                    "http://localhost/v1/chat/completions",
                    "http://other/v1/chat/completions",
                    "HTTP://localhost/v1/chat/completions",
                    "https://localhost/v1/chat/completions",
                    "http://user@localhost/v1",
                    "http://localhost",
                    "http://localhost?a",
                    "http:/v1",
                    "http:",
                    "localhost:80",
                    "localhost/v1",
                    "*",
                    "v1/chat/completions",
                    "",
                    "?a=b",
                    "#",
                    "http://[::1]:80/v1",
                    "http:///v1",
                    "ftp://a/b",
                    "*/v1",
                    "//other/v1",
                ])
                .into();
            if dice.roll(4) == 0 {
                message.method = b"OPTIONS".to_vec()
            }
        },
    },
    Mutation {
        name: "odd target",
        why: "RFC 3986: not a byte of a path or query",
        weight: 4,
        apply: |dice, message| {
            let odd = [
                &b"#"[..],
                b"#a",
                b"\"",
                b"<",
                b">",
                b"^",
                b"`",
                b"{",
                b"|",
                b"}",
                b"\\",
                b"\0",
                b"\x01",
                b"\x0b",
                b"\x1f",
                b"\x7f",
                b"\x80",
                b"\xff",
                b"\xc3\xa4",
                b"%",
                b"%0",
                b"%00",
                b"%0d%0a",
                b"/../",
                b"/./",
                b"//",
                b"/..",
                b"..",
                b";a",
                b"?",
                b"??",
                b"@",
                b":",
                b"[",
                b"*",
                b"'",
                b"%2f",
                b"%zz",
            ];
            let odd = odd[dice.roll(odd.len())];
            let at = dice.roll(message.target.len() + 1);
            message.target.splice(at..at, odd.iter().copied());
        },
    },
    Mutation {
        name: "odd gap in the request line",
        why: "RFC 9112 3: one space each; more may be taken",
        weight: 3,
        apply: |dice, message| {
            let gap = dice
                .pick(&[
                    "  ", "\t", " \t", "", "\u{b}", "\r", "\u{c}", "   ", "\u{a0}", " \r", "\0",
                ])
                .as_bytes()
                .to_vec();
            if dice.roll(2) == 0 {
                message.first_gap = gap
            } else {
                message.second_gap = gap
            }
        },
    },
    Mutation {
        name: "before the request line",
        why: "RFC 9112 2.2: a server should ignore at least one empty line",
        weight: 3,
        apply: |dice, message| {
            message.before = dice
                .pick(&[
                    "\r\n",
                    "\r\n\r\n",
                    "\r\n\r\n\r\n",
                    "\n",
                    "\n\n",
                    "\r",
                    " ",
                    "\t",
                    "\r\n ",
                    "\0",
                    "\u{feff}",
                    "\r\r\n",
                    "\n\r\n",
                    "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n",
                ])
                .into();
        },
    },
    Mutation {
        name: "odd method",
        why: "RFC 9110 9.1: a method is a token",
        weight: 4,
        apply: |dice, message| {
            message.method = dice
                .pick(&[
                    "post",
                    "Post",
                    "POST\0",
                    "P\u{e4}ST",
                    "",
                    "PO ST",
                    "PO\tST",
                    "P(ST",
                    "M-SEARCH",
                    "X_Y",
                    "!#$%&'*+-.^_`|~09az",
                    "A",
                    "PRI",
                    "\"POST\"",
                    "POST:",
                    "P\x7fST",
                    "LOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOONG",
                    "{",
                    "0",
                    "-",
                ])
                .into();
        },
    },
    Mutation {
        name: "another method",
        why: "a method with rules of its own",
        weight: 3,
        apply: |dice, message| {
            message.method = dice
                .pick(&[
                    "GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT",
                    "PROPFIND",
                ])
                .into();
        },
    },
    Mutation {
        name: "odd Host",
        why: "RFC 9112 3.2: exactly one valid Host",
        weight: 3,
        apply: |dice, message| match dice.roll(8) {
            0 => message.lines.retain(|line| !line.is("host")),
            1 => message.insert(dice, Line::new("Host", "localhost")),
            2 => message.insert(dice, Line::new("Host", "other")),
            3 => message.lines[0].value.clear(),
            _ => {
                let odd = dice.pick(&[
                    "a b", "user@a", "a/b", "a?b", "a#b", "a,b", "a:b", "a:99999", "a:", "[::1",
                    "::1", "a\\b", "\u{e4}", "a\u{b}", "a:1:2", "a%41", "[v1.a]", "a;b", "a\"b",
                    "a<b", "-", ".",
                ]);
                if let Some(host) = message.lines.iter_mut().find(|line| line.is("host")) {
                    host.value = odd.into()
                }
            }
        },
    },
    Mutation {
        name: "odd chunk size",
        why: "RFC 9112 7.1: a size is hex digits",
        weight: 6,
        apply: |dice, message| {
            let chunk = message.chunk(dice);
            let size = chunk.data.len();
            let hex = format!("{size:x}");
            chunk.size = dice
                .pick(&[
                    "+{x}",
                    "-{x}",
                    "0x{x}",
                    "0X{x}",
                    " {x}",
                    "\t{x}",
                    "{x} ",
                    "{x}\t",
                    "{x}  \t",
                    "000{x}",
                    "000000000000000000000000000000{x}",
                    "{x}h",
                    "g",
                    "",
                    "{x}_0",
                    "{x}.",
                    "{x},",
                    "{x}\0",
                    "{x}\u{b}",
                    "{x} {x}",
                    "\"{x}\"",
                    "1{x}",
                    "10000000{x}",
                    "1000000000000000{x}",
                    "ffffffffffffffff",
                    "fffffffffffffff{x}",
                    "7fffffffffffffff",
                    "8000000000000000",
                    "10000000000000000",
                    "{x}\r",
                    "\r\n{x}",
                    "{x}L",
                    "-0",
                    "\u{ff11}",
                ])
                .replace("{x}", &hex)
                .into_bytes();
        },
    },
    Mutation {
        name: "wrong chunk size",
        why: "RFC 9112 7.1: a chunk ends where its size says",
        weight: 3,
        apply: |dice, message| {
            let chunk = message.chunk(dice);
            let size = chunk.data.len();
            let wrong = if dice.roll(2) == 0 {
                size + 1 + dice.roll(4)
            } else {
                size.saturating_sub(1 + dice.roll(3))
            };
            chunk.size = format!("{wrong:x}").into_bytes();
        },
    },
    Mutation {
        name: "chunk extension",
        why: "RFC 9112 7.1.1: an extension is tokens and quoted strings, and may be refused where it's long",
        weight: 5,
        apply: |dice, message| {
            let chunk = message.chunk(dice);
            chunk.extension = match dice.roll(20) {
                0 => {
                    let length = dice.roll(20_000);
                    let mut long = b";a=".to_vec();
                    long.resize(length + 3, b'x');
                    long
                }
                1 => {
                    let mut extension = b";a=".to_vec();
                    extension.extend_from_slice(odd(dice));
                    extension
                }
                2 => {
                    let mut extension = b";".to_vec();
                    extension.extend_from_slice(odd(dice));
                    extension
                }
                _ => dice
                    .pick(&[
                        ";a",
                        ";a=b",
                        ";a=\"b\"",
                        ";a=\"\\\"\"",
                        ";a=\"\r\n\"",
                        ";a=\"\n\"",
                        ";a\nb",
                        ";\n",
                        ";\r",
                        ";a\rb",
                        "; a = b",
                        " ;a",
                        " ; a",
                        "\t;a",
                        ";",
                        ";;",
                        ";=",
                        ";a=",
                        ";a=\"",
                        ";a=\"b",
                        ";a b",
                        "a",
                        ",a",
                        " a",
                        "=a",
                        "\u{b};a",
                        ";\0",
                        ";\u{e4}",
                        ";a=\"\0\"",
                        ";a=\"\r\n0\r\n\r\n\"",
                    ])
                    .into(),
            };
        },
    },
    Mutation {
        name: "odd end of a chunk",
        why: "RFC 9112 7.1: CRLF behind a size and behind its data",
        weight: 5,
        apply: |dice, message| {
            let chunk = message.chunk(dice);
            let end = [
                "\n", "\r", "", "\r\r\n", "\n\r\n", "\r\n\r\n", " \r\n", "x\r\n", "\n\n", "\r\nx",
            ][dice.roll(10)];
            if dice.roll(2) == 0 || chunk.data.is_empty() {
                chunk.line_end = end
            } else {
                chunk.data_end = end
            }
        },
    },
    Mutation {
        name: "odd last chunk",
        why: "RFC 9112 7.1: zeros, then trailers, then an empty line",
        weight: 4,
        apply: |dice, message| {
            let (chunk, trailers, end) = message.last_chunk(dice);
            match dice.roll(6) {
                0 => {
                    chunk.size = dice
                        .pick(&[
                            "00",
                            "0000000000000000000000",
                            "-0",
                            "+0",
                            "0x0",
                            "",
                            "0 ",
                            " 0",
                            "0;a",
                            "0\0",
                            "0_",
                            "o",
                        ])
                        .into()
                }
                1 => {
                    *end = [
                        "", "\n", "\r", "\r\r\n", " \r\n", "\r\n\r\n", "x\r\n", "\n\r\n",
                    ][dice.roll(8)]
                }
                2 => trailers.clear(),
                3 => chunk.line_end = ["\n", "\r", "", "\n\r\n"][dice.roll(4)],
                _ => {
                    let mut line = Line::new(
                        dice.pick(&[
                            "Content-Length",
                            "Transfer-Encoding",
                            "Host",
                            "X-A",
                            "Authorization",
                            "X A",
                            "",
                            " X",
                            "X\0",
                            "GET / HTTP/1.1",
                            "X-A ",
                            "\u{e4}",
                        ]),
                        dice.pick(&[
                            "5", "chunked", "", "a\r\n b", "a\nb", "a\rb", "\0", "\x7f", "\u{e4}",
                        ]),
                    );
                    if dice.roll(6) == 0 {
                        line.colon = [" : ", "", " :"][dice.roll(3)]
                    }
                    if dice.roll(6) == 0 {
                        line.end = ["\n", "\r", "\r\r\n"][dice.roll(3)]
                    }
                    trailers.push(line);
                }
            }
        },
    },
    Mutation {
        name: "many trailers",
        why: "a bound on trailers",
        weight: 1,
        apply: |dice, message| {
            let (_, trailers, _) = message.last_chunk(dice);
            for _ in 0..dice.roll(130) {
                trailers.push(Line::new("X-Trailer", "value"));
            }
        },
    },
    Mutation {
        name: "many chunks",
        why: "a bound on what isn't content",
        weight: 1,
        apply: |dice, message| {
            message.make_chunked(dice);
            if let Body::Chunked { chunks, .. } = &mut message.body {
                let last = chunks.pop();
                *chunks = message
                    .content
                    .iter()
                    .map(|byte| Chunk::of(&[*byte]))
                    .collect();
                for chunk in chunks.iter_mut() {
                    if dice.roll(8) == 0 {
                        chunk.extension = b";a=bcd".to_vec()
                    }
                }
                chunks.extend(last);
            }
        },
    },
    Mutation {
        name: "Connection",
        why: "what belongs to one hop, or ends a connection",
        weight: 3,
        apply: |dice, message| {
            let value = dice.pick(&[
                "close",
                "keep-alive, close",
                "close, keep-alive",
                "Close",
                "close, x",
                "closed",
                "x-close",
                "close;",
                "\"close\"",
                "",
                ",",
                "content-length",
                "transfer-encoding",
                "host",
                "authorization",
                "x-title",
                "upgrade",
                "close\u{b}",
                "keep-alive\0",
                ",close,",
                "close close",
                "TE, close",
            ]);
            let name = dice.pick(&["Connection", "connection", "Proxy-Connection", "Keep-Alive"]);
            message.insert(dice, Line::new(name, value));
        },
    },
    Mutation {
        name: "Expect or Upgrade",
        why: "what asks for an answer before the answer",
        weight: 2,
        apply: |dice, message| {
            let (name, value) = [
                ("Expect", "100-continue"),
                ("Expect", "100-Continue"),
                ("Expect", "x"),
                ("Expect", ""),
                ("Upgrade", "websocket"),
                ("Upgrade", "h2c"),
                ("Upgrade", "HTTP/2.0"),
            ][dice.roll(7)];
            message.insert(dice, Line::new(name, value));
            if name == "Upgrade" {
                message.insert(dice, Line::new("Connection", "Upgrade, HTTP2-Settings"))
            }
        },
    },
    Mutation {
        name: "many headers",
        why: "a bound on headers",
        weight: 1,
        apply: |dice, message| {
            for _ in 0..90 + dice.roll(20) {
                message.lines.push(Line::new("X-Many", "value"));
            }
        },
    },
    Mutation {
        name: "long head",
        why: "a bound on a head's bytes",
        weight: 1,
        apply: |dice, message| {
            let long = "x".repeat(dice.roll(40_000));
            if dice.roll(4) == 0 {
                message.target.extend_from_slice(long.as_bytes())
            } else {
                message.insert(dice, Line::new("X-Long", &long))
            }
        },
    },
    Mutation {
        name: "HTTP/2 preface",
        why: "another protocol",
        weight: 1,
        apply: |_, message| {
            message.method = b"PRI".to_vec();
            message.target = b"*".to_vec();
            message.version = b"HTTP/2.0".to_vec();
        },
    },
    Mutation {
        name: TRUNCATED,
        why: "the rest doesn't come",
        weight: 3,
        apply: |_, _| {},
    },
    Mutation {
        name: EDITED,
        why: "anything anywhere",
        weight: 14,
        apply: |_, _| {},
    },
];

const TRUNCATED: &str = "truncated";
const EDITED: &str = "edited bytes";

fn dice_name(dice: &mut Dice) -> &'static str {
    [
        "Transfer-Encoding",
        "transfer-encoding",
        "Transfer-encoding",
    ][dice.roll(3)]
}

/// What random edits insert.
const FRAGMENTS: [&str; 34] = [
    "\r\n",
    "\n",
    "\r",
    " ",
    "\t",
    "\0",
    "\u{b}",
    ":",
    ";",
    ",",
    "0\r\n\r\n",
    "\r\n\r\n",
    "chunked",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Host: a\r\n",
    "HTTP/1.1",
    "HTTP/1.0",
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST ",
    "5",
    "0",
    "a",
    "+",
    "-",
    "0x",
    "\u{80}",
    "\"",
    "Connection: close\r\n",
    "\r\n ",
    "x: y\r\n",
    "ffffffff",
    "%",
];

/// The case of this number.
pub fn case(seed: u64, number: u64, credentials: &Credentials) -> Case {
    let mut dice = Dice(seed ^ number.wrapping_mul(0xa24b_aed4_963e_e407));
    let count = 1 + dice.roll(3);
    let mut messages: Vec<Message> = (0..count)
        .map(|_| Message::new(&mut dice, credentials, false))
        .collect();
    // Ends the connection, so that what came before is seen to have ended.
    messages.push(Message::new(&mut dice, credentials, true));
    let mutations = [0, 1, 1, 1, 1, 1, 2, 2, 3, 4][dice.roll(10)];
    let total: usize = MUTATIONS.iter().map(|mutation| mutation.weight).sum();
    let mut names = Vec::new();
    for _ in 0..mutations {
        let mut drawn = dice.roll(total);
        let mutation = MUTATIONS
            .iter()
            .find(|mutation| {
                let found = drawn < mutation.weight;
                drawn = drawn.saturating_sub(mutation.weight);
                found
            })
            .expect("the weights add up");
        let at = dice.roll(messages.len() - 1);
        if !messages[at].lines.is_empty() {
            (mutation.apply)(&mut dice, &mut messages[at]);
            names.push(mutation.name);
        }
    }
    let mut bytes = Vec::new();
    for message in &messages {
        message.write(&mut bytes);
    }
    for name in &names {
        if *name == EDITED {
            mutate(&mut dice, &mut bytes, &FRAGMENTS);
        } else if *name == TRUNCATED {
            bytes.truncate(dice.roll(bytes.len() + 1));
        }
    }
    names.sort_unstable();
    names.dedup();
    Case {
        bytes,
        mutations: names,
    }
}
