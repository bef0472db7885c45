//! Where a form and its parts begin and end.

use super::*;

#[test]
fn one_crlf_before_the_first_boundary_is_taken_and_anything_else_refused() {
    let whole = form(&[MODEL_PART, FILE_PART]);
    assert_eq!(model([b"\r\n", &whole[..]].concat()), named("good"));
    for before in [
        "\r\n\r\n",
        "\r\n\n",
        "\r\n ",
        " \r\n",
        "\r",
        "\r\r\n",
        "\n",
        " ",
        "preamble\r\n",
        "\r\npreamble\r\n",
        "-",
        "\0",
        "\u{feff}",
    ] {
        let body = [before.as_bytes(), &whole].concat();
        assert_eq!(model(&body), Err(MultipartError::Preamble), "{before:?}");
    }
    for body in [
        "",
        "\r\n",
        "-",
        "--",
        "--B",
        "\r\n--B",
        "model=good",
        "{\"model\":\"good\"}",
    ] {
        assert_eq!(model(body), Err(MultipartError::Preamble), "{body:?}");
    }
}

#[test]
fn up_to_two_crlfs_behind_the_last_boundary_are_taken_and_anything_else_refused() {
    let body = form(&[MODEL_PART]);
    let end = body.len() - 2;
    for behind in ["", "\r\n", "\r\n\r\n"] {
        let body = [&body[..end], behind.as_bytes()].concat();
        assert_eq!(model(&body), named("good"), "{behind:?}");
    }
    for behind in [
        "\r",
        "\n",
        "\n\n",
        "\r\n\n",
        "\r\n\r",
        "\r\n\r\n\r\n",
        " \r\n",
        "\r\n ",
        "\r\n--BX",
        "\r\n\r\n--BX",
        "x",
        "--",
        "\r\nepilogue",
        "\0",
    ] {
        let body = [&body[..end], behind.as_bytes()].concat();
        assert_eq!(model(&body), Err(MultipartError::Epilogue), "{behind:?}");
    }
    for between in ["", "\r\n"] {
        let second = form(&[(MODEL_PART.0, b"bad")]);
        let two_forms = [&body, between.as_bytes(), &second].concat();
        assert_eq!(model(two_forms), Err(MultipartError::Epilogue));
    }
}

#[test]
fn a_missing_final_boundary_is_refused() {
    let body = form(&[MODEL_PART, FILE_PART]);
    for cut in [2, 3, 4, 8, 10, 20] {
        let verdict = model(&body[..body.len() - cut]);
        assert_eq!(verdict.is_err(), cut > 2, "{cut}");
    }
    let open = "--BX\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngood";
    assert_eq!(model(open), Err(MultipartError::NoEnd));
    assert_eq!(model(format!("{open}\r\n--BX")), Err(MultipartError::NoEnd));
}

#[test]
fn a_line_that_only_begins_with_the_boundary_is_refused() {
    let part = format!("{}\r\n\r\n", MODEL_PART.0);
    for (before, behind) in [
        ("\r\n", "foo\r\n"),
        ("\r\n", " \r\n"),
        ("\r\n", "\t\r\n"),
        ("\r\n", "\n"),
        ("\r\n", "\r"),
        ("\r\n", "-\r\n"),
        ("\r\n", " --\r\n"),
        ("\r\n", "\0\r\n"),
        ("\n", "\r\n"),
        ("\n", "\n"),
        ("\n", "--\r\n"),
        ("\n", "foo"),
        ("\r", "\r\n"),
        ("\r", "foo"),
        ("\n\r", "\r\n"),
    ] {
        let line = format!("{before}--BX{behind}");
        let content = format!("--BX\r\n{part}good{line}{part}bad\r\n--BX--\r\n");
        assert_eq!(model(&content), Err(MultipartError::Delimiter), "{line:?}");
        let at_the_start = format!("--BX{behind}{part}good\r\n--BX--\r\n");
        if !matches!(behind, "\r\n" | "--\r\n") {
            assert_eq!(
                model(&at_the_start),
                Err(MultipartError::Delimiter),
                "{behind:?}"
            );
        }
    }
}

#[test]
fn an_empty_part_needs_the_crlf_of_its_boundary() {
    let part = format!("--BX\r\n{}\r\n\r\n--BX--\r\n", MODEL_PART.0);
    assert_eq!(model(part), Err(MultipartError::Delimiter));
}

#[test]
fn the_boundary_within_a_line_is_content() {
    let content = b"x--BX\r\n--B\r\n -- BX\n\n-\r--\r\n---BX--";
    assert_eq!(
        model(form(&[MODEL_PART, (FILE_PART.0, content)])),
        named("good")
    );
}

#[test]
fn content_may_hold_any_line_ends_of_its_own() {
    for content in [
        &b"\n"[..],
        b"\r",
        b"\r\n",
        b"\r\n\r\n",
        b"a\nb\rc\r\n",
        b"\r\r",
    ] {
        assert_eq!(
            model(form(&[(FILE_PART.0, content), MODEL_PART])),
            named("good"),
            "{content:?}"
        );
    }
}

#[test]
fn a_boundary_is_one_to_seventy_of_the_characters_all_parsers_take() {
    for good in [
        "B",
        "----WebKitFormBoundary7MA4YWxkTrZu0gW",
        "a'()+_,-./:=?z",
        &"b".repeat(70),
    ] {
        assert!(Boundary::new(good.as_bytes()).is_ok(), "{good}");
        let body = format!("--{good}\r\n{}\r\n\r\ngood\r\n--{good}--", MODEL_PART.0);
        assert_eq!(
            read_with(good, body.as_bytes(), ExtraModelFields::Refused),
            named("good")
        );
    }
    for bad in [
        "",
        &"b".repeat(71),
        "a b",
        "a ",
        " a",
        "a\"b",
        "a\\b",
        "a;b",
        "a@b",
        "ä",
        "a\0",
        "a*b",
        "a%20",
        "a\n",
        "<a>",
    ] {
        assert_eq!(
            Boundary::new(bad.as_bytes()),
            Err(MultipartError::Boundary),
            "{bad:?}"
        );
    }
}

#[test]
fn a_body_made_of_boundary_beginnings_is_answered_quickly() {
    let boundary = "-".repeat(70);
    let began = std::time::Instant::now();
    for filling in ["-", "\n-", "\n--", "\r--"] {
        let content = filling.repeat((5 << 20) / filling.len());
        let body = format!("--{boundary}\r\n{}\r\n\r\n{content}", FILE_PART.0);
        assert!(read_with(&boundary, body.as_bytes(), ExtraModelFields::Refused).is_err());
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(5));
}
