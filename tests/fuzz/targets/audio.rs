//! An audio file that a client sent: its length is read soon, or is unknown, and no panic gets out.

use std::time::{Duration, Instant};

use keygate::request_body::audio;

use super::Target;

/// See the module.
pub struct AudioFile(());

impl Default for AudioFile {
    fn default() -> Self {
        // A panic of the crate that reads files ends in the function under test.
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !audio::is_reading() {
                print(panic);
            }
        }));
        Self(())
    }
}

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../fixtures/audio/", $name)).to_vec()
    };
}

impl Target for AudioFile {
    const NAME: &'static str = "audio";
    const FRAGMENTS: &'static [&'static str] = &[
        "OggS\0",
        "OpusHead",
        "\u{1}vorbis",
        "RIFF",
        "WAVE",
        "fmt \u{10}\0\0\0",
        "fact\u{4}\0\0\0",
        "data",
        "LIST",
        "fLaC",
        "ID3\u{3}\0\0\0\0",
        "TAG",
        "APETAGEX",
        "Xing\0\0\0\u{3}",
        "VBRI",
        "ftypM4A ",
        "moov",
        "trak",
        "mdia",
        "mdhd",
        "minf",
        "stbl",
        "stsd",
        "stts",
        "mp4a",
        "esds",
        "\0\0\0\u{8}",
        "\0\0\0\u{1}",
        "\0\0\0\0",
        "FORM",
        "AIFF",
        "COMM",
        "MAC ",
        "wvpk",
        "MPCK",
        "Speex   ",
    ];
    const WORDS: &'static [&'static str] = &["known", "unknown"];

    fn examples(&self) -> Vec<Vec<u8>> {
        vec![
            fixture!("constant.mp3"),
            fixture!("variable.mp3"),
            fixture!("bare.mp3"),
            fixture!("end.m4a"),
            fixture!("front.mp4"),
            fixture!("opus.ogg"),
            fixture!("vorbis.ogg"),
            fixture!("tone.aac"),
            b"RIFF\x2c\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\x08\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
            b"fLaC\x80\0\0\x22\x10\0\x10\0\0\0\0\0\0\0\x01\xf4\0\xf0\0\0\0\x10aaaaaaaaaaaaaaaa\0\0".to_vec(),
        ]
    }

    fn check(&self, input: &[u8]) -> &'static str {
        let began = Instant::now();
        let length = audio::length(input);
        // It takes some milliseconds at most; the machine may be busy.
        assert!(began.elapsed() < Duration::from_secs(5), "took too long");
        match length {
            Some(length) => {
                assert!(!length.is_zero());
                assert!(length.as_secs() <= input.len() as u64 / 16);
                "known"
            }
            None => "unknown",
        }
    }
}
