//! The headers of a part besides its name: types, encodings, lengths, and how the lines are written.

use super::*;

#[test]
fn a_part_that_would_have_to_be_decoded_is_ambiguous() {
    for header in [
        "Content-Transfer-Encoding: quoted-printable",
        "Content-Transfer-Encoding: base64",
        "Content-Transfer-Encoding: x",
        "Content-Transfer-Encoding:",
        "content-transfer-encoding: BASE64",
        "Content-Transfer-Encoding: 7bit, base64",
        "Content-Transfer-Encoding: binary\r\nContent-Transfer-Encoding: base64",
        "Content-Encoding: gzip",
        "Content-Encoding:",
    ] {
        for (disposition, content) in [MODEL_PART, FILE_PART] {
            let headers = format!("{header}\r\n{disposition}");
            let body = form(&[
                ("Content-Disposition: form-data; name=x", b""),
                (&headers, content),
            ]);
            assert_eq!(model(body), ambiguous(Ambiguity::Encoded), "{header}");
        }
    }
    for value in ["7bit", "8bit", "binary", "BINARY", "  8BIT "] {
        let headers = format!("{}\r\nContent-Transfer-Encoding: {value}", MODEL_PART.0);
        assert_eq!(
            model(form(&[(&headers, b"good")])),
            named("good"),
            "{value}"
        );
    }
}

#[test]
fn a_model_typed_as_anything_but_plain_readable_text_is_ambiguous() {
    let typed = |value: &str, content: &[u8]| {
        model(form(&[(
            &format!("{}\r\nContent-Type: {value}", MODEL_PART.0),
            content,
        )]))
    };
    for value in [
        "text/plain",
        "text/plain; charset=utf-8",
        "text/plain;charset=\"UTF-8\"",
        "text/plain; charset=us-ascii",
        "text/plain; charset=ISO-8859-1",
    ] {
        assert_eq!(typed(value, b"good"), named("good"), "{value}");
    }
    for value in [
        "",
        "application/octet-stream",
        "application/json",
        "text/html",
        "Text/Plain",
        "text/plain; charset=utf-16",
        "text/plain; charset=utf-7",
        "text/plain; charset*=utf-8''utf-7",
        "text/plain;",
        "text/plain\r\nContent-Type: text/plain",
    ] {
        assert_eq!(
            typed(value, b"good"),
            ambiguous(Ambiguity::NotPlainText),
            "{value}"
        );
    }
    assert_eq!(
        typed("text/plain; charset=utf-8", "gööd".as_bytes()),
        named("gööd")
    );
    assert_eq!(
        typed("text/plain; charset=iso-8859-1", "gööd".as_bytes()),
        ambiguous(Ambiguity::NotPlainText)
    );
}

#[test]
fn a_part_that_holds_parts_or_fields_is_refused() {
    for value in [
        "multipart/mixed; boundary=YY",
        "multipart/mixed",
        "Multipart/Form-Data; boundary=YY",
        "multipart/form-data;",
        "multipart/form-data; charset=utf-8",
        "message/rfc822",
        "application/x-www-form-urlencoded",
        "Application/X-WWW-Form-Urlencoded; charset=utf-8",
    ] {
        let headers =
            format!("Content-Disposition: form-data; name=\"x\"\r\nContent-Type: {value}");
        assert_eq!(
            model(form(&[MODEL_PART, (&headers, b"")])),
            Err(MultipartError::Nested),
            "{value}"
        );
    }
}

#[test]
fn a_content_length_that_is_not_the_contents_is_refused() {
    for (value, taken) in [
        ("4", true),
        ("3", false),
        ("40", false),
        ("04", false),
        ("+4", false),
        ("", false),
        ("4\r\nContent-Length: 5", false),
    ] {
        let headers = format!("{}\r\nContent-Length: {value}", MODEL_PART.0);
        let expected = if taken {
            named("good")
        } else {
            Err(MultipartError::Length)
        };
        assert_eq!(model(form(&[(&headers, b"good")])), expected, "{value:?}");
    }
}

#[test]
fn a_malformed_header_line_is_refused() {
    for headers in [
        "Content-Disposition: form-data;\r\n name=\"model\"",
        "Content-Disposition: form-data;\r\n\tname=\"model\"",
        "Content-Disposition : form-data; name=\"model\"",
        " Content-Disposition: form-data; name=\"model\"",
        "Content-Disposition: form-data; name=\"model\"\nX: y",
        // Falcon finds no name here.
        "Content-Disposition:form-data; name=\"model\"",
        "Content-Disposition:\tform-data; name=\"model\"",
        "X: y\nContent-Disposition: form-data; name=\"model\"",
        "X: y\rContent-Disposition: form-data; name=\"model\"",
        "Content-Disposition: form-data; name=\"mo\0del\"",
        "Content-Disposition: form-data; name=\"mo\u{7f}del\"",
        "Content-Disposition: form-data; name=\"mo\u{b}del\"",
        "Content-Disposition: form-data; name=\"mo\rdel\"",
        "Content-Disposition form-data",
        ": form-data",
        "Cöntent: x",
        "--BX",
        "--BX: x",
        "--BX--",
        "Content-Id: y\r\n--BX",
        "Content-Id: y\r\n--BX: z",
    ] {
        let verdict = model(form(&[MODEL_PART, (headers, b"bad")]));
        assert_eq!(verdict, Err(MultipartError::Header), "{headers:?}");
    }
    let bare = "--BX\r\nContent-Disposition: form-data; name=\"model\"\n\ngood\r\n--BX--";
    assert!(model(bare).is_err());
    let lines = "--BX\nContent-Disposition: form-data; name=\"model\"\n\ngood\n--BX--\n";
    assert!(model(lines).is_err());
}

#[test]
fn a_header_that_is_not_utf_8_is_refused_in_any_part() {
    for header in [
        &b"Content-Disposition: form-data; name=\"lang\xE4age\""[..],
        b"Content-Disposition: form-data; name=\"file\"; filename=\"\xE4.wav\"",
        b"Content-Disposition: form-data; name=\"x\"\r\nContent-Id: \x80",
    ] {
        let whole = form(&[MODEL_PART]);
        let body = [b"--BX\r\n", header, b"\r\n\r\nx\r\n", &whole[..]].concat();
        assert_eq!(model(&body), Err(MultipartError::HeaderNotUtf8));
    }
    let message = MultipartError::HeaderNotUtf8.to_string();
    assert!(message.contains("Send the filename"), "{message}");
    assert!(message.ends_with("in UTF-8."), "{message}");
}

#[test]
fn a_header_that_forms_do_not_have_is_refused_in_any_part() {
    for name in [
        // Bottle reads the first as Content-Disposition.
        "Content_Disposition",
        "CONTENT_DISPOSITION",
        "Content-Disposition_",
        "Content_Type",
        "Content-Type.",
        "Content-Type2",
        "Content-",
        "Content",
        "X-Foo",
        "X-Content-Type",
        "MIME-Version",
        "Disposition",
    ] {
        for headers in [
            format!("{}\r\n{name}: form-data; name=\"model\"", FILE_PART.0),
            format!("{name}: form-data; name=\"model\"\r\n{}", FILE_PART.0),
        ] {
            let verdict = model(form(&[MODEL_PART, (&headers, b"bad")]));
            assert_eq!(verdict, Err(MultipartError::HeaderName), "{headers}");
        }
    }
    for header in ["Content-Id: <a>", "content-language: de", "Content-X-Y: z"] {
        let headers = format!("{header}\r\n{}", MODEL_PART.0);
        assert_eq!(
            model(form(&[(&headers, b"good")])),
            named("good"),
            "{header}"
        );
    }
}

#[test]
fn headers_of_eight_kibibytes_are_taken_and_longer_ones_refused() {
    let fixed = MODEL_PART.0.len() + "\r\nContent-Id: ".len() + "\r\n\r\n".len();
    for (length, expected) in [
        (MAX_HEADER_BYTES, named("good")),
        (MAX_HEADER_BYTES + 1, Err(MultipartError::HeadersTooLong)),
    ] {
        let headers = format!(
            "{}\r\nContent-Id: {}",
            MODEL_PART.0,
            "y".repeat(length - fixed)
        );
        assert_eq!(model(form(&[(&headers, b"good")])), expected, "{length}");
    }
}

#[test]
fn a_part_typed_as_a_form_without_a_boundary_is_read_as_untyped() {
    for value in [
        "multipart/form-data",
        "Multipart/Form-Data",
        " multipart/form-data ",
    ] {
        let typed = |(headers, content): (&str, &'static [u8])| {
            (format!("{headers}\r\nContent-Type: {value}"), content)
        };
        let (of_model, good) = typed(MODEL_PART);
        let (of_file, content) = typed(("Content-Disposition: form-data; name=\"x\"", b"--Y\r\n"));
        let body = form(&[(&of_file, content), (&of_model, good)]);
        assert_eq!(model(body), named("good"), "{value}");
    }
    let twice = format!(
        "{}\r\nContent-Type: multipart/form-data\r\nContent-Type: text/plain",
        MODEL_PART.0
    );
    assert_eq!(
        model(form(&[(&twice, b"good")])),
        ambiguous(Ambiguity::NotPlainText)
    );
}
