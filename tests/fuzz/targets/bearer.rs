//! The Authorization header, one line of input a header line: contract 4, step 1, against its words spelled out.

use http::HeaderValue;
use keygate::http::credential;
use keygate::policy::denial::Denial;

use super::{Target, bytes_of};

/// See the module.
#[derive(Default)]
pub struct Bearer;

impl Target for Bearer {
    const NAME: &'static str = "bearer";
    const FRAGMENTS: &'static [&'static str] = &[
        "Bearer",
        "bearer ",
        "BEARER ",
        "Basic ",
        " ",
        "  ",
        "\t",
        "\n",
        "\r",
        ",",
        ", Bearer ",
        "\"",
        "=",
        "kg_",
        "KG_",
        "sk-",
        "\u{e4}",
        "\u{7f}",
        "\0",
        "x",
        "0000000000",
        "'\u{2019} OR '1'='1",
        "%s",
        "${jndi:ldap://x}",
        "../",
    ];
    const WORDS: &'static [&'static str] = &["read", "missing", "invalid", "no header at all"];

    fn examples(&self) -> Vec<Vec<u8>> {
        let made = made_token(&[b'7'; 43]);
        let mut examples = bytes_of(&[
            "Bearer sk-1234",
            "bearer x",
            "Bearer ",
            "Bearer",
            "Basic dXNlcjpwYXNz",
            "Bearer a\nBearer b",
            "Bearer a b",
            "",
            "\u{7f}",
        ]);
        examples.push(format!("Bearer {made}").into_bytes());
        for length in [511, 512, 513] {
            examples.push(format!("Bearer {}", "t".repeat(length)).into_bytes());
        }
        examples
    }

    fn check(&self, input: &[u8]) -> &'static str {
        let lines = input.split(|byte| *byte == b'\n').take(8);
        // Other bytes are refused in a head.
        let lines: Vec<&[u8]> = lines
            .filter(|line| HeaderValue::from_bytes(line).is_ok())
            .collect();
        let read = credential::bearer(lines.iter().copied());
        match (&read, expected(&lines)) {
            (Ok(token), Ok(bytes)) => assert_eq!(
                token.hash().as_bytes(),
                blake3::hash(bytes).as_bytes(),
                "the hash is of other bytes"
            ),
            (Err(denial), Err(told)) => assert_eq!(*denial, told),
            (read, told) => panic!("{read:?} instead of {told:?}"),
        }
        match read {
            Ok(_) => "read",
            Err(_) if lines.is_empty() => "no header at all",
            Err(Denial::MissingApiKey) => "missing",
            Err(_) => "invalid",
        }
    }
}

/// The token in these lines, by the contract's words.
fn expected<'l>(lines: &[&'l [u8]]) -> Result<&'l [u8], Denial> {
    let line = match lines {
        [] => return Err(Denial::MissingApiKey),
        [line] => *line,
        _ => return Err(Denial::InvalidApiKey),
    };
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let word = line.iter().position(blank).unwrap_or(line.len());
    if !line[..word].eq_ignore_ascii_case(b"bearer") || line[word..].iter().all(blank) {
        return Err(Denial::MissingApiKey);
    }
    let token = &line[word + 1..];
    let bounded = line[word] == b' '
        && (1..=512).contains(&token.len())
        && token.iter().all(|byte| (0x21..=0x7e).contains(byte));
    let reserved = token.starts_with(b"kg_");
    let genuine = || token.len() == 52 && made_token(&token[3..46]).as_bytes() == token;
    if bounded && (!reserved || genuine()) {
        Ok(token)
    } else {
        Err(Denial::InvalidApiKey)
    }
}

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The token with these 43 characters; what is not base62 makes it one that equals nothing.
fn made_token(characters: &[u8]) -> String {
    if !characters.iter().all(u8::is_ascii_alphanumeric) {
        return String::new();
    }
    let mut token = [b"kg_".as_slice(), characters].concat();
    // CRC-32 of ISO-HDLC, bit by bit.
    let mut crc = !0_u32;
    for byte in &token {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
        }
    }
    let mut rest = !crc;
    let mut digits = [0; 6];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    token.extend_from_slice(&digits);
    String::from_utf8(token).expect("ASCII")
}
