use std::sync::Once;
use std::time::Instant;

use super::*;

/// The files of `tests/fixtures/audio/make`: a tone of 0.75 s, of 0.25 s in FLAC.
macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/fixtures/audio/", $name)).as_slice()
    };
}

const FILES: [(&str, &[u8], Option<u64>); 10] = [
    // An encoder of MP3 and AAC adds silence to fill its first and last frames.
    ("constant.mp3", fixture!("constant.mp3"), Some(936)),
    ("variable.mp3", fixture!("variable.mp3"), Some(936)),
    ("bare.mp3", fixture!("bare.mp3"), Some(936)),
    ("end.m4a", fixture!("end.m4a"), Some(878)),
    ("front.mp4", fixture!("front.mp4"), Some(878)),
    ("tone.flac", fixture!("tone.flac"), Some(250)),
    ("opus.ogg", fixture!("opus.ogg"), Some(750)),
    ("vorbis.ogg", fixture!("vorbis.ogg"), Some(750)),
    ("tone.aac", fixture!("tone.aac"), None),
    ("tone.webm", fixture!("tone.webm"), None),
];

/// Has panics of the crate print nothing, as the gateway's own hook does.
fn print_no_panics_of_files() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !is_reading() {
                print(panic);
            }
        }));
    });
}

/// A WAV file of silence with these chunks before its data.
fn wav(rate: u32, samples: u32, chunks: &[u8], declared: Option<u32>) -> Vec<u8> {
    let mut format = Vec::new();
    format.extend_from_slice(&[1, 0, 1, 0]);
    format.extend_from_slice(&rate.to_le_bytes());
    format.extend_from_slice(&(rate * 2).to_le_bytes());
    format.extend_from_slice(&[2, 0, 16, 0]);
    let data = vec![0; samples as usize * 2];
    let declared = declared.unwrap_or(samples * 2);
    [
        &b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0"[..],
        &format,
        chunks,
        b"data",
        &declared.to_le_bytes(),
        &data,
    ]
    .concat()
}

#[test]
fn the_length_stands_in_the_headers_of_usual_formats() {
    for (name, file, milliseconds) in FILES {
        let expected = milliseconds.map(Duration::from_millis);
        assert_eq!(length(file), expected, "{name}");
    }
    let file = wav(8000, 12_344, b"", None);
    assert_eq!(length(&file), Some(Duration::from_millis(1543)));
    let file = wav(16_000, 16, b"LIST\x04\0\0\0INFO", None);
    assert_eq!(length(&file), Some(Duration::from_millis(1)));
}

#[test]
fn a_length_that_the_file_has_no_bytes_for_is_not_believed() {
    // A program that writes WAV into a pipe cannot know its length.
    assert_eq!(length(&wav(8000, 800, b"", Some(u32::MAX))), None);
    // 4 294 967 295 samples, of a codec whose samples are not counted by their bytes.
    let mut file = wav(8000, 800, b"fact\x04\0\0\0\xff\xff\xff\xff", None);
    file[20] = 0x11;
    assert_eq!(length(&file), None);
    assert_eq!(length(b""), None);
    assert_eq!(length(b"not audio"), None);
}

/// Files that are made to take long, or much memory.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    const SIZE: usize = 24 << 20;
    let repeat = |start: &[u8], part: &[u8]| [start, &part.repeat(SIZE / part.len())].concat();
    let moov = {
        let track = [&b"\0\0\0\x10trak\0\0\0\x08mdia"[..], &b"\0\0\0\x08free"[..]].concat();
        let tracks = track.repeat(SIZE / track.len());
        let length = u32::try_from(tracks.len() + 8).unwrap().to_be_bytes();
        [
            &b"\0\0\0\x10ftypM4A \0\0\0\0"[..],
            &length,
            b"moov",
            &tracks,
        ]
        .concat()
    };
    let nested = {
        let mut atoms = b"\0\0\0\x10ftypM4A \0\0\0\0".to_vec();
        let names = [b"moov", b"trak", b"mdia", b"minf", b"stbl"];
        for depth in 0..SIZE / 8 {
            let rest = u32::try_from(SIZE - depth * 8).unwrap();
            atoms.extend_from_slice(&rest.to_be_bytes());
            atoms.extend_from_slice(names[depth.min(names.len() - 1)]);
        }
        atoms
    };
    vec![
        ("zeros", vec![0; SIZE]),
        ("zeros of MP3", repeat(b"\xff\xfb\x10\xc4", b"\0")),
        ("syncs", repeat(b"", b"\xff")),
        ("frames of MP3", repeat(b"", b"\xff\xfb\x10\xc4")),
        ("ID3 tags", repeat(b"", b"ID3\x03\0\0\0\0\0\0")),
        (
            "ID3 tags before MP3",
            repeat(b"\xff\xfb\x10\xc4", b"ID3\x03\0\0\0\0\0\0"),
        ),
        ("pages of Ogg", repeat(fixture!("opus.ogg"), b"OggS")),
        (
            "pages without end",
            repeat(b"OggS\0\x02\0\0\0\0\0\0\0\0", b"\xff"),
        ),
        ("pages of Vorbis", repeat(fixture!("vorbis.ogg"), b"OggS\0")),
        (
            "chunks of WAV",
            repeat(b"RIFF\xff\xff\xff\xffWAVE", b"LIST\0\0\0\0"),
        ),
        (
            "empty chunks",
            repeat(b"RIFF\xff\xff\xff\xffWAVE", b"abcd\0\0\0\0"),
        ),
        (
            "a format of 16 MiB",
            repeat(b"RIFF\xff\xff\xff\xffWAVEfmt \0\0\0\x01", b"\0"),
        ),
        ("a block of 16 MiB", repeat(b"fLaC\0\xff\xff\xff", b"\0")),
        (
            "blocks of FLAC",
            repeat(&fixture!("tone.flac")[..42], b"\x01\0\0\0"),
        ),
        (
            "atoms",
            repeat(b"\0\0\0\x10ftypM4A \0\0\0\0", b"\0\0\0\x08free"),
        ),
        ("tracks", moov),
        ("nested atoms", nested),
        ("AIFF", repeat(b"FORM\xff\xff\xff\xffAIFF", b"COMT\0\0\0\0")),
        ("APE", repeat(b"MAC \x96\x0f", b"\xff")),
        ("WavPack", repeat(b"wvpk\xff\xff\0\0\x10\x04", b"\xff")),
        (
            "blocks of WavPack",
            repeat(
                b"",
                b"wvpk\x18\0\0\0\x10\x04\0\0\xff\xff\xff\xff\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ),
        ),
        ("Musepack", repeat(b"MPCK", b"SH\x02")),
        ("ADTS", repeat(b"", b"\xff\xf1\x50\x80\x01\x1f\xfc")),
    ]
}

#[test]
fn a_file_made_to_take_long_is_given_up_soon() {
    print_no_panics_of_files();
    for (name, file) in hostile() {
        let began = Instant::now();
        let _ = length(&file);
        let took = began.elapsed();
        // A hundred times what it takes, for a busy machine.
        assert!(took < Duration::from_secs(5), "{name} took {took:?}");
    }
}

#[test]
fn a_damaged_file_is_unknown_or_has_a_length_that_it_has_bytes_for() {
    print_no_panics_of_files();
    let began = Instant::now();
    let wav = wav(8000, 400, b"fact\x04\0\0\0\x90\x01\0\0", None);
    let files = FILES.iter().map(|(_, file, _)| *file).chain([&wav[..]]);
    for file in files {
        for end in (0..file.len().min(512)).chain((512..file.len()).step_by(64)) {
            let _ = length(&file[..end]);
        }
        for at in 0..file.len().min(300) {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = file.to_vec();
                damaged[at] = value;
                if let Some(next) = damaged.get_mut(at + 1) {
                    *next = value;
                }
                if let Some(length) = length(&damaged) {
                    assert!(length.as_secs() <= damaged.len() as u64 / MIN_BYTES_PER_SECOND);
                }
                assert!(!is_reading());
            }
        }
    }
    assert!(began.elapsed() < Duration::from_secs(60));
}
