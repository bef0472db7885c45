use super::*;
use crate::store::key_file::stamp::CLOCK_TICK;
use crate::table::NO_YIELD;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

fn line(id: &str, token: &str) -> String {
    let hash = TokenHash::of(token.as_bytes());
    format!(r#"{{"id":"{id}","name":"n","hash":"{hash}","model_access":{{"mode":"all"}}}}"#)
}

/// A folder with a key file that holds this text.
fn folder_with(text: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.jsonl");
    fs::write(&file, text).unwrap();
    (folder, file)
}

fn ids(text: &[u8]) -> Vec<String> {
    let (_folder, file) = folder_with(text);
    let loaded = read(&file, &Table::default(), NO_YIELD).unwrap();
    let ids = loaded
        .entries
        .iter()
        .map(|entry| entry.key().id().to_owned());
    ids.collect()
}

/// Line and field of each fault.
fn faults(text: &[u8]) -> Vec<(usize, String)> {
    let (_folder, file) = folder_with(text);
    let error = read(&file, &Table::default(), NO_YIELD).unwrap_err();
    assert!(error.faults().iter().all(|fault| fault.file == file));
    let places = error.faults().iter();
    places
        .map(|fault| (fault.line, fault.field.clone()))
        .collect()
}

#[test]
fn empty_lines_are_skipped_crlf_is_taken_and_the_last_line_needs_no_end() {
    let (a, b) = (line("a", "1"), line("b", "2"));
    assert_eq!(ids(format!("\n{a}\r\n\r\n\n{b}").as_bytes()), ["a", "b"]);
    assert_eq!(ids(format!("{a}\n{b}\n").as_bytes()), ["a", "b"]);
    assert!(ids(b"").is_empty() && ids(b"\n\n").is_empty());
}

#[test]
fn empty_lines_take_no_memory() {
    let (_folder, file) = folder_with(&b"\n\r\n \n".repeat(200_000));
    let table = Table::default();
    let job = ParseJob {
        table: &table,
        yield_point: NO_YIELD,
        next_chunk: AtomicU64::new(0),
        faults: AtomicUsize::new(0),
    };
    let reader = KeyFileReader::open(&file).unwrap();
    let chunks = reader.parse_on_all_cores(&job).unwrap();
    assert_eq!(
        chunks.iter().map(|chunk| chunk.lines).sum::<usize>(),
        600_000
    );
    assert!(chunks.iter().all(|chunk| chunk.skipped.len() == 1));
}

#[test]
fn faults_behind_many_empty_lines_are_named_with_their_lines() {
    let (a, b) = (line("a", "1"), line("b", "2"));
    let text = format!(
        "{}{a}\n\n\n{b}\n{}{a}\n",
        "\n".repeat(2_000_000),
        "\n".repeat(10)
    );
    let last = 2_000_000 + 4 + 10 + 1;
    let expected = [(last, "id".to_owned()), (last, "hash".to_owned())];
    assert_eq!(faults(text.as_bytes()), expected);
}

#[test]
fn a_token_that_two_keys_share_is_a_fault_whether_it_is_current_or_previous() {
    let with_previous = |id, token, previous: &str| {
        let hash = TokenHash::of(previous.as_bytes());
        let previous =
            format!(r#""previous":{{"hash":"{hash}","not_after":"2027-02-01T00:00:00Z"}}"#);
        line(id, token).replace("\"model_access\"", &format!("{previous},\"model_access\""))
    };
    for (first, second, field) in [
        (with_previous("a", "1", "2"), line("b", "2"), "hash"),
        (
            line("a", "1"),
            with_previous("b", "2", "1"),
            "previous.hash",
        ),
        (
            with_previous("a", "1", "3"),
            with_previous("b", "2", "3"),
            "previous.hash",
        ),
    ] {
        let text = format!("\n{first}\n{second}\n");
        assert_eq!(faults(text.as_bytes()), [(3, field.to_owned())], "{text}");
    }
    let text = format!("{}\n{}", with_previous("a", "1", "2"), line("b", "3"));
    assert_eq!(ids(text.as_bytes()), ["a", "b"]);
}

#[test]
fn every_fault_of_a_file_is_named_with_its_line() {
    let (a, b) = (line("a", "1"), line("b", "2"));
    let torn = &a[..40];
    let text = format!("\n{a}\n{{\"id\":\"x\"}}\n\n{torn}\n{b}");
    let expected = [(3, "name"), (3, "hash"), (3, "model_access"), (5, "")];
    let expected: Vec<_> = expected
        .iter()
        .map(|(line, field)| (*line, (*field).to_owned()))
        .collect();
    assert_eq!(faults(text.as_bytes()), expected);
}

#[test]
fn a_file_that_is_cut_off_within_its_last_line_is_not_loaded() {
    let text = format!("{}\n{}", line("a", "1"), line("b", "2"));
    let first = line("a", "1").len();
    for end in 1..text.len() {
        if end == first || end == first + 1 {
            continue;
        }
        let (_folder, file) = folder_with(&text.as_bytes()[..end]);
        assert!(
            read(&file, &Table::default(), NO_YIELD).is_err(),
            "cut at {end}"
        );
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_not_taken_for_what_was_read() {
    let (a, b) = (line("a", "1"), line("b", "2"));
    let both = format!("{a}\n{b}\n");
    type Change = fn(&Path, &str);
    let changes: [(&str, Change, bool); 4] = [
        ("nothing", |_, _| (), true),
        ("cut short", |file, a| fs::write(file, a).unwrap(), false),
        (
            "written on",
            |file, a| {
                let mut file = OpenOptions::new().append(true).open(file).unwrap();
                file.write_all(a.as_bytes()).unwrap();
            },
            false,
        ),
        (
            // Replacing the file leaves the open one as it is, which is whole.
            "replaced",
            |file, a| {
                fs::write(file.with_extension("new"), a).unwrap();
                fs::rename(file.with_extension("new"), file).unwrap();
            },
            true,
        ),
    ];
    for (name, change, is_whole) in changes {
        let (_folder, file) = folder_with(both.as_bytes());
        // After this a change shows in the file's times, however coarse the file system's clock is.
        std::thread::sleep(CLOCK_TICK);
        let text = KeyFileReader::open(&file).unwrap();
        change(&file, &a);
        let loaded = text.parse(&Table::default(), NO_YIELD);
        if is_whole {
            assert_eq!(loaded.unwrap().entries.len(), 2, "{name}");
        }
        // The replaced file's link count changes, and with it its change time. Then it is read again, which does no
        // harm.
        assert!(
            text.is_unchanged() == is_whole || name == "replaced",
            "{name}"
        );
    }
}

#[test]
fn a_repeated_id_or_hash_names_both_lines() {
    let text = [
        line("a", "1"),
        String::new(),
        line("b", "1"),
        line("a", "2"),
        line("a", "3"),
    ]
    .join("\n");
    let (_folder, file) = folder_with(text.as_bytes());
    let error = read(&file, &Table::default(), NO_YIELD).unwrap_err();
    let told: Vec<_> = error.faults().iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 3);
    for (told, start, other) in [
        (&told[0], ":3: hash: ", "line 1"),
        (&told[1], ":4: id: ", "line 1"),
        (&told[2], ":5: id: ", "line 1"),
    ] {
        assert!(told.contains(start) && told.contains(other), "{told}");
    }
}

#[test]
fn a_byte_order_mark_and_bytes_that_are_not_utf8_are_faults() {
    let a = line("a", "1");
    assert_eq!(
        faults(format!("\u{feff}{a}\n").as_bytes()),
        [(1, String::new())]
    );
    let mut bytes = format!("{a}\n").into_bytes();
    bytes.extend_from_slice(b"{\"id\":\"\xe9\"}\n");
    assert_eq!(faults(&bytes), [(2, String::new())]);
    let utf16: Vec<u8> = a.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(!faults(&utf16).is_empty());
}

#[test]
fn what_is_no_file_is_a_fault_and_never_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let here = |name: &str| folder.path().join(name);
    fs::create_dir(here("directory")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        here("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    std::os::unix::fs::symlink(here("loop"), here("loop")).unwrap();
    for (name, what) in [
        ("missing", "does not exist"),
        ("directory", "a directory"),
        ("fifo", "not a regular file"),
        ("loop", "cannot be read"),
    ] {
        match read(&here(name), &Table::default(), NO_YIELD) {
            Err(ReadError::Unreadable(fault)) => {
                assert!(fault.line == 0 && fault.message.contains(what), "{fault}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn lines_keep_their_numbers_wherever_the_pieces_are_cut() {
    let text_of = |bad: fn(usize) -> bool| -> String {
        let id = |number| match bad(number) {
            true => "bad id".to_owned(),
            false => format!("key_{number}"),
        };
        let lines = (0..20_000).map(|number| line(&id(number), &number.to_string()) + "\n");
        lines.collect()
    };
    let text = text_of(|number| number % 5000 == 4999);
    assert!(text.len() as u64 > 2 * CHUNK_SIZE);
    let expected = [5000, 10_000, 15_000, 20_000].map(|line| (line, "id".to_owned()));
    assert_eq!(faults(text.as_bytes()), expected);
    let read = ids(text_of(|_| false).as_bytes());
    assert!(read.len() == 20_000 && read[17_000] == "key_17000");
}

#[test]
fn a_piece_that_ends_with_a_line_loses_and_repeats_nothing() {
    let line = |number: usize| {
        let text = line(&format!("key_{number:08}"), &number.to_string());
        // 256 bytes, so that every chunk ends with a line.
        format!("{text}{}\n", " ".repeat(255 - text.len()))
    };
    let text: String = (0..10_000).map(line).collect();
    assert_eq!(CHUNK_SIZE % 256, 0);
    assert_eq!(ids(text.as_bytes()).len(), 10_000);
}

#[test]
fn a_line_without_end_is_refused_without_reading_it_whole() {
    let (_folder, file) = folder_with(b"");
    File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let error = read(&file, &Table::default(), NO_YIELD).unwrap_err();
    assert!(
        error.to_string().contains(":1: is longer than 1 MiB"),
        "{error}"
    );
}

#[test]
fn of_very_many_faults_a_thousand_are_told_and_the_rest_counted() {
    let (_folder, file) = folder_with("{}\n".repeat(200_000).as_bytes());
    let error = read(&file, &Table::default(), NO_YIELD).unwrap_err();
    let faults = error.faults();
    assert_eq!(faults.len(), MAX_FAULTS + 1);
    assert_eq!((faults[0].line, faults[999].line), (1, 250));
    assert!(
        faults[1000].message.contains("799000 more faults"),
        "{}",
        faults[1000]
    );
}

#[test]
fn a_record_that_is_in_the_table_is_not_held_twice() {
    let (_folder, file) = folder_with(format!("{}\n{}", line("a", "1"), line("b", "2")).as_bytes());
    let table = Table::default();
    table.swap(read(&file, &table, NO_YIELD).unwrap().entries, NO_YIELD);
    let again = read(&file, &table, NO_YIELD).unwrap();
    assert!(Arc::ptr_eq(&again.entries[0], &table.by_id("a").unwrap()));
}
