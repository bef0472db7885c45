use super::*;
use crate::request_body::model::name::ModelError;
use proptest::prelude::*;

type Verdict = Result<Result<String, ModelError>, MultipartError>;

fn read_with(boundary: &str, body: &[u8], extra_fields: ExtraModelFields) -> Verdict {
    let boundary = Boundary::new(boundary.as_bytes()).unwrap();
    read(&boundary, body, extra_fields, None)
        .map(|findings| findings.into_model().map(Cow::into_owned))
}

/// The result for a complete body with the boundary `BX`.
fn model(body: impl AsRef<[u8]>) -> Verdict {
    read_with("BX", body.as_ref(), ExtraModelFields::Refused)
}

fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (headers, content) in parts {
        body.extend_from_slice(format!("--BX\r\n{headers}\r\n\r\n").as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--BX--\r\n");
    body
}

const MODEL_PART: (&str, &[u8]) = ("Content-Disposition: form-data; name=\"model\"", b"good");
const FILE_PART: (&str, &[u8]) = (
    "Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav",
    b"RIFF\n--\r\n\r\n--B\r\n \0\xff",
);

/// The result for a form with the usual model, and another part with this Content-Disposition.
fn beside(disposition: &str) -> Verdict {
    model(form(&[
        MODEL_PART,
        (&format!("Content-Disposition: {disposition}"), b"bad"),
    ]))
}

fn alone(disposition: &str) -> Verdict {
    model(form(&[(
        &format!("Content-Disposition: {disposition}"),
        b"good",
    )]))
}

fn named(name: &str) -> Verdict {
    Ok(Ok(name.to_owned()))
}

fn ambiguous(ambiguity: Ambiguity) -> Verdict {
    Ok(Err(ModelError::Ambiguous(ambiguity)))
}

/// Forms that real clients sent, byte for byte except for the content of their files.
const CLIENTS: [(&str, &str, &[u8]); 10] = [
    (
        "httpx 0.28",
        "ca380cb4c081fade4d9dc80dff320aa9",
        b"--ca380cb4c081fade4d9dc80dff320aa9\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--ca380cb4c081fade4d9dc80dff320aa9\r\nContent-Disposition: form-data; name=\"language\"\r\n\r\nde\r\n--ca380cb4c081fade4d9dc80dff320aa9\r\nContent-Disposition: form-data; name=\"file\"; filename=\"\xc3\xa4 %22b%22;\\\\c.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n\x00\xff\r\n--ca380cb4c081fade4d9dc80dff320aa9--\r\n",
    ),
    (
        "requests 2, urllib3 2",
        "498e73b0c1f9c96cfc118cb6e84dcf5c",
        b"--498e73b0c1f9c96cfc118cb6e84dcf5c\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--498e73b0c1f9c96cfc118cb6e84dcf5c\r\nContent-Disposition: form-data; name=\"language\"\r\n\r\nde\r\n--498e73b0c1f9c96cfc118cb6e84dcf5c\r\nContent-Disposition: form-data; name=\"file\"; filename=\"\xc3\xa4 %22b%22.wav\"\r\n\r\nRIFF\r\n\x00\xff\r\n--498e73b0c1f9c96cfc118cb6e84dcf5c--\r\n",
    ),
    (
        "openai-python",
        "3277e51e31f9ef44b829c2cf7f3d9e9d",
        b"--3277e51e31f9ef44b829c2cf7f3d9e9d\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--3277e51e31f9ef44b829c2cf7f3d9e9d\r\nContent-Disposition: form-data; name=\"language\"\r\n\r\nde\r\n--3277e51e31f9ef44b829c2cf7f3d9e9d\r\nContent-Disposition: form-data; name=\"timestamp_granularities[]\"\r\n\r\nword\r\n--3277e51e31f9ef44b829c2cf7f3d9e9d\r\nContent-Disposition: form-data; name=\"timestamp_granularities[]\"\r\n\r\nsegment\r\n--3277e51e31f9ef44b829c2cf7f3d9e9d\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/x-wav\r\n\r\nRIFF\r\n\x00\xff\r\n--3277e51e31f9ef44b829c2cf7f3d9e9d--\r\n",
    ),
    (
        "aiohttp 3, FormData (Open WebUI)",
        "ef748955627b454786ca4fff9a8119c2",
        b"--ef748955627b454786ca4fff9a8119c2\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--ef748955627b454786ca4fff9a8119c2\r\nContent-Type: audio/wav\r\nContent-Disposition: form-data; name=\"file\"; filename=\"%C3%A4%20b.wav\"\r\n\r\nRIFF\r\n\x00\xff\r\n--ef748955627b454786ca4fff9a8119c2\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=\"n\"\r\n\r\n1\r\n--ef748955627b454786ca4fff9a8119c2--\r\n",
    ),
    (
        "aiohttp as its older versions write parts, with their length",
        "63c6df36aaf440818662dc7654bebc0b",
        b"--63c6df36aaf440818662dc7654bebc0b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=\"model\"\r\nContent-Length: 9\r\n\r\nwhisper-1\r\n--63c6df36aaf440818662dc7654bebc0b\r\nContent-Type: application/octet-stream\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"; filename*=utf-8''a.wav\r\nContent-Length: 8\r\n\r\nRIFF\r\n\x00\xff\r\n--63c6df36aaf440818662dc7654bebc0b--\r\n",
    ),
    (
        "curl 7 and 8, -F",
        "------------------------69edba0b42ee0a25",
        b"--------------------------69edba0b42ee0a25\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--------------------------69edba0b42ee0a25\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: application/octet-stream\r\n\r\nRIFF\r\n\x00\xff\r\n--------------------------69edba0b42ee0a25\r\nContent-Disposition: form-data; name=\"language\"\r\n\r\nde\r\n--------------------------69edba0b42ee0a25--\r\n",
    ),
    (
        "Node 20, fetch and FormData",
        "----formdata-undici-084433848748",
        b"------formdata-undici-084433848748\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n------formdata-undici-084433848748\r\nContent-Disposition: form-data; name=\"file\"; filename=\"\xc3\xa4 %22b%22.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n\x00\xff\r\n------formdata-undici-084433848748\r\nContent-Disposition: form-data; name=\"timestamp_granularities[]\"\r\n\r\nword\r\n------formdata-undici-084433848748--\r\n",
    ),
    (
        "Chromium",
        "----WebKitFormBoundary7MA4YWxkTrZu0gW",
        b"------WebKitFormBoundary7MA4YWxkTrZu0gW\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n------WebKitFormBoundary7MA4YWxkTrZu0gW\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n\x00\xff\r\n------WebKitFormBoundary7MA4YWxkTrZu0gW--\r\n",
    ),
    (
        ".NET, which quotes the boundary instead of the names",
        "4f1d0a3c-7a1e-4a6f-9d46-0c1d4f0b2f10",
        b"--4f1d0a3c-7a1e-4a6f-9d46-0c1d4f0b2f10\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=model\r\n\r\nwhisper-1\r\n--4f1d0a3c-7a1e-4a6f-9d46-0c1d4f0b2f10\r\nContent-Disposition: form-data; name=file; filename=a.wav; filename*=utf-8''a.wav\r\n\r\nRIFF\r\n\x00\xff\r\n--4f1d0a3c-7a1e-4a6f-9d46-0c1d4f0b2f10--\r\n",
    ),
    (
        "Apache HttpClient",
        "0hf3Vq-7xYz_Kw",
        b"--0hf3Vq-7xYz_Kw\r\nContent-Disposition: form-data; name=\"model\"\r\nContent-Type: text/plain; charset=ISO-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n\r\nwhisper-1\r\n--0hf3Vq-7xYz_Kw\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\nRIFF\r\n\x00\xff\r\n--0hf3Vq-7xYz_Kw--\r\n",
    ),
];

#[test]
fn the_forms_of_real_clients_are_read() {
    for (client, boundary, body) in CLIENTS {
        assert_eq!(
            read_with(boundary, body, ExtraModelFields::Refused),
            named("whisper-1"),
            "{client}"
        );
    }
}

#[test]
fn every_prefix_of_a_real_form_is_refused_but_for_the_last_crlf() {
    for (client, boundary, body) in CLIENTS {
        for end in 0..body.len() {
            let verdict = read_with(boundary, &body[..end], ExtraModelFields::Refused);
            if end == body.len() - 2 {
                assert_eq!(verdict, named("whisper-1"), "{client}");
            } else {
                assert!(verdict.is_err(), "{client} cut at {end}");
            }
        }
    }
}

#[test]
fn the_model_is_read_wherever_its_part_stands() {
    assert_eq!(model(form(&[MODEL_PART])), named("good"));
    assert_eq!(model(form(&[MODEL_PART, FILE_PART])), named("good"));
    assert_eq!(
        model(form(&[FILE_PART, MODEL_PART, FILE_PART])),
        named("good")
    );
}

#[test]
fn a_model_after_twenty_five_megabytes_is_read_like_one_before() {
    let large: Vec<u8> = (0_u32..25 << 20)
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    let file = (FILE_PART.0, large.as_slice());
    assert_eq!(model(form(&[file, MODEL_PART])), named("good"));
    assert_eq!(
        model(form(&[MODEL_PART, file, MODEL_PART])),
        ambiguous(Ambiguity::Twice)
    );
}

#[test]
fn a_form_without_a_filled_model_is_missing_one() {
    assert_eq!(model("--BX--"), Ok(Err(ModelError::Missing)));
    assert_eq!(model(form(&[FILE_PART])), Ok(Err(ModelError::Missing)));
    assert_eq!(
        model(form(&[(MODEL_PART.0, b"")])),
        Ok(Err(ModelError::Missing))
    );
}

#[test]
fn the_value_is_the_content_byte_for_byte() {
    for value in [
        "good ",
        " good",
        "good\n",
        "\"good\"",
        "go\0od",
        "ä",
        "\u{feff}good",
        "a\r\nb",
    ] {
        assert_eq!(
            model(form(&[(MODEL_PART.0, value.as_bytes())])),
            named(value),
            "{value:?}"
        );
    }
    assert_eq!(
        model(form(&[(MODEL_PART.0, b"\xff")])),
        Err(MultipartError::ModelNotUtf8)
    );
}

#[test]
fn two_models_are_ambiguous_equal_or_not() {
    for second in [&b"bad"[..], b"good", b""] {
        let twice = form(&[MODEL_PART, (MODEL_PART.0, second)]);
        assert_eq!(model(twice), ambiguous(Ambiguity::Twice));
    }
}

#[test]
fn a_model_with_a_filename_is_ambiguous_even_an_empty_one() {
    for parameter in [
        "; filename=\"x\"",
        "; filename=\"\"",
        "; filename=x",
        "; FileName=\"\"",
        "; filename*=utf-8''x",
        "; filename*0=x",
        "; x=\"; filename=\"",
    ] {
        let verdict = alone(&format!("form-data; name=\"model\"{parameter}"));
        assert_eq!(verdict, ambiguous(Ambiguity::File), "{parameter}");
    }
    assert_eq!(
        alone("form-data; filename=\"\"; name=\"model\""),
        ambiguous(Ambiguity::File)
    );
}

#[test]
fn a_name_that_some_parser_takes_for_model_is_ambiguous() {
    for name in [
        "\"Model\"",
        "\"MODEL\"",
        "Model",
        "\" model\"",
        "\"model \"",
        "\"\tmodel\"",
        "\"mo\\del\"",
        "\"\\model\"",
        "\"%6dodel\"",
        "\"%6Dodel\"",
        "%6dodel",
        "\"model%20\"",
        "\"%22model%22\"",
        "\"\\\"model\\\"\"",
        "'model'",
        "\"'model'\"",
        "\"model[]\"",
        "\"Model[]\"",
        "\"model[0]\"",
        "\"model[a][b]\"",
        "\"model%5B%5D\"",
        "\"<model>\"",
        "\"model;\"",
        "\"model; size=4\"",
        "model%3bx",
        "\"=?utf-8?Q?model?=\"",
        "\"=?utf-8?B?bW9kZWw=?=\"",
        "\"model%00\"",
        "\"model.\"",
    ] {
        assert_eq!(
            beside(&format!("form-data; name={name}")),
            ambiguous(Ambiguity::LikeModel),
            "{name}"
        );
        assert_eq!(
            alone(&format!("form-data; name={name}")),
            ambiguous(Ambiguity::LikeModel),
            "{name}"
        );
    }
}

#[test]
fn other_names_pass() {
    for name in [
        "\"mode\"",
        "\"file\"",
        "\"modelling\"",
        "\"my_model\"",
        "\"x[model]\"",
        "\"timestamp_granularities[]\"",
        "\"ä\"",
        "prompt",
    ] {
        assert_eq!(
            beside(&format!("form-data; name={name}")),
            named("good"),
            "{name}"
        );
    }
}

#[test]
fn a_model_written_as_rfc_9110_allows_is_read() {
    for disposition in [
        "form-data; name=\"model\"",
        "form-data;name=\"model\"",
        "FORM-DATA; name=\"model\"",
        "form-data;\tname=\"model\"",
        "form-data; name=model",
        " \tform-data; name=\"model\" ",
    ] {
        assert_eq!(alone(disposition), named("good"), "{disposition:?}");
    }
    assert_eq!(
        model(form(&[(
            "content-disposition:form-data; name=\"model\"",
            b"good"
        )])),
        named("good")
    );
}

#[test]
fn extra_fields_are_ambiguous_for_restricted_keys_only() {
    for name in [
        "models",
        "Models",
        "fallbacks",
        "lora_path",
        "models[]",
        "fallbacks%5b0%5d",
    ] {
        let body = form(&[
            MODEL_PART,
            (
                &format!("Content-Disposition: form-data; name=\"{name}\""),
                b"bad",
            ),
        ]);
        assert!(
            matches!(
                model(&body),
                Ok(Err(ModelError::Ambiguous(Ambiguity::ExtraField(_))))
            ),
            "{name}"
        );
        assert_eq!(
            read_with("BX", &body, ExtraModelFields::Allowed),
            named("good"),
            "{name}"
        );
    }
}

#[test]
fn several_or_extended_names_are_ambiguous() {
    for disposition in [
        "form-data; name=\"x\"; name=\"model\"",
        "form-data; name=\"model\"; name=\"model\"",
        "form-data; name=\"x\"; Name=\"y\"",
        "form-data; name*=UTF-8''model",
        "form-data; name*0=\"mo\"; name*1=\"del\"",
        "form-data; name*0*=UTF-8''mo; name*1=del",
        "form-data; name=\"x\"; name*=UTF-8''model",
        "form-data; name*=UTF-8''x",
        // A name that parsers find if they split or search without regard to quotes:
        "form-data; name=\"x; name=model; \"",
        "form-data; filename=\"; name=model; \"; name=\"x\"",
        "form-data; filename=\"\\\"; name=model; y=\"; name=\"x\"",
        "form-data; filename=\" name=model\"; name=\"x\"",
        "form-data; filename=\"; name = model\"; name=\"x\"",
        "form-data; filename=\"; name*=utf-8''model\"; name=\"x\"",
    ] {
        assert_eq!(
            beside(disposition),
            ambiguous(Ambiguity::SeveralNames),
            "{disposition}"
        );
    }
}

#[test]
fn the_models_name_is_written_as_every_parser_finds_it() {
    // multer accepts only lower case.
    for disposition in ["form-data; Name=\"model\"", "form-data; nAME=model"] {
        assert_eq!(
            alone(disposition),
            ambiguous(Ambiguity::SeveralNames),
            "{disposition}"
        );
    }
    for disposition in [
        // multer stops at the first word that begins like a name, cpp-httplib at any other parameter.
        "form-data; name-of=\"x\"; name=\"model\"",
        "form-data; nameless=1; name=\"model\"",
        "form-data; x=\"my name\"; name=\"model\"",
        "form-data; x=y; name=\"model\"",
        "form-data; name=\"model\"; size=4",
        "form-data ; name=\"model\"",
        "form-data\t; name=\"model\"",
    ] {
        assert_eq!(
            alone(disposition),
            ambiguous(Ambiguity::NotNameAlone),
            "{disposition}"
        );
    }
}

#[test]
fn a_file_may_be_called_anything_that_names_nothing() {
    for filename in [
        "model",
        "model.wav",
        "name.wav",
        "a;b.wav",
        "my name is.wav",
        "filename=x",
        "a\\\\b",
        "rename=1",
    ] {
        let disposition = format!("form-data; name=\"file\"; filename=\"{filename}\"");
        assert_eq!(beside(&disposition), named("good"), "{filename}");
    }
}

#[test]
fn a_part_without_a_readable_name_is_refused() {
    for disposition in [
        "form-data",
        "form-data;",
        "form-data; filename=\"x\"",
        "form-data; name",
        "form-data; name=",
        "form-data; name=\"\"",
        "form-data; name =\"model\"",
        "form-data; name= \"model\"",
        "form-data; name=\"model",
        "form-data; name=\"model\"x",
        "form-data; name=model x",
        "form-data; name=\"model\";",
        "form-data;; name=\"model\"",
        "form-data, name=\"model\"",
        "form-data name=\"model\"",
        "attachment; name=\"model\"",
        "inline; name=\"model\"",
        "; name=\"model\"",
        "",
        "form-data; name=mo\"del\"",
        "form-data; \"name\"=\"model\"",
        "form-data; name=<model>",
    ] {
        assert_eq!(
            beside(disposition),
            Err(MultipartError::NoName),
            "{disposition}"
        );
    }
    let no_headers = b"--BX\r\n\r\ngood\r\n--BX--";
    assert_eq!(model(no_headers), Err(MultipartError::NoName));
    assert_eq!(
        model(form(&[("Content-Type: text/plain", b"good")])),
        Err(MultipartError::NoName)
    );
}

#[test]
fn two_dispositions_are_ambiguous() {
    let twice = "Content-Disposition: form-data; name=\"model\"\r\ncontent-disposition: form-data; name=\"x\"";
    assert_eq!(
        model(form(&[(twice, b"good")])),
        ambiguous(Ambiguity::SeveralDispositions)
    );
}

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
fn a_part_that_holds_parts_is_refused() {
    for value in [
        "multipart/mixed; boundary=YY",
        "Multipart/Form-Data",
        "message/rfc822",
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
fn anything_before_the_first_boundary_is_refused() {
    for before in ["\r\n", "\n", " ", "preamble\r\n", "-", "\0", "\u{feff}"] {
        let body = [before.as_bytes(), &form(&[MODEL_PART])].concat();
        assert_eq!(model(&body), Err(MultipartError::Preamble), "{before:?}");
    }
    for body in ["", "-", "--", "--B", "model=good", "{\"model\":\"good\"}"] {
        assert_eq!(model(body), Err(MultipartError::Preamble), "{body:?}");
    }
}

#[test]
fn anything_after_the_last_boundary_but_one_crlf_is_refused() {
    let body = form(&[MODEL_PART]);
    let end = body.len() - 2;
    assert_eq!(model(&body[..end]), named("good"));
    for behind in [
        "\r",
        "\n",
        "\r\n\r\n",
        " \r\n",
        "\r\n ",
        "\r\n--BX",
        "x",
        "--",
        "\r\nepilogue",
        "\0",
    ] {
        let body = [&body[..end], behind.as_bytes()].concat();
        assert_eq!(model(&body), Err(MultipartError::Epilogue), "{behind:?}");
    }
    let second_form = [body, form(&[(MODEL_PART.0, b"bad")])].concat();
    assert_eq!(model(second_form), Err(MultipartError::Epilogue));
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
fn a_malformed_header_line_is_refused() {
    for headers in [
        "Content-Disposition: form-data;\r\n name=\"model\"",
        "Content-Disposition: form-data;\r\n\tname=\"model\"",
        "Content-Disposition : form-data; name=\"model\"",
        " Content-Disposition: form-data; name=\"model\"",
        "Content-Disposition: form-data; name=\"model\"\nX: y",
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
        "X: y\r\n--BX",
        "X: y\r\n--BX: z",
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
        b"Content-Disposition: form-data; name=\"x\"\r\nX: \x80",
    ] {
        let whole = form(&[MODEL_PART]);
        let body = [b"--BX\r\n", header, b"\r\n\r\nx\r\n", &whole[..]].concat();
        assert_eq!(model(&body), Err(MultipartError::Header));
    }
}

#[test]
fn headers_of_eight_kibibytes_are_taken_and_longer_ones_refused() {
    let fixed = MODEL_PART.0.len() + "\r\nX: ".len() + "\r\n\r\n".len();
    for (length, expected) in [
        (MAX_HEADER_BYTES, named("good")),
        (MAX_HEADER_BYTES + 1, Err(MultipartError::HeadersTooLong)),
    ] {
        let headers = format!("{}\r\nX: {}", MODEL_PART.0, "y".repeat(length - fixed));
        assert_eq!(model(form(&[(&headers, b"good")])), expected, "{length}");
    }
}

#[test]
fn sixty_four_parts_are_taken_and_more_refused() {
    let other = ("Content-Disposition: form-data; name=\"x\"", &b""[..]);
    let parts = |count: usize| [vec![other; count - 1], vec![MODEL_PART]].concat();
    assert_eq!(model(form(&parts(64))), named("good"));
    assert_eq!(model(form(&parts(65))), Err(MultipartError::TooManyParts));
}

#[test]
fn an_invalid_form_is_reported_before_an_ambiguous_model() {
    let body = form(&[MODEL_PART, MODEL_PART]);
    assert_eq!(model(&body[..body.len() - 4]), Err(MultipartError::NoEnd));
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

proptest! {
    #[test]
    fn any_contents_are_split_where_they_were_joined(
        files in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..5),
        place in any::<prop::sample::Index>(),
        name in "[a-z0-9:./-]{1,30}",
    ) {
        let place = place.index(files.len() + 1);
        let mut parts: Vec<(&str, &[u8])> = files.iter().map(|file| (FILE_PART.0, file.as_slice())).collect();
        parts.insert(place, (MODEL_PART.0, name.as_bytes()));
        let holds_delimiter = files.iter().any(|file| memmem::find(file, b"--BX").is_some());
        prop_assume!(!holds_delimiter);
        prop_assert_eq!(model(form(&parts)), named(&name));
    }

    #[test]
    fn no_bytes_at_all_make_it_panic(
        pieces in prop::collection::vec(prop_oneof![
            prop::sample::select(vec![
                &b"--BX"[..], b"\r\n", b"\n", b"\r", b"--", b"Content-Disposition: form-data; name=\"model\"",
                b"; name=", b"good", b":", b"\"", b"\\", b"[", b"%6", b"name", b"=", b"*",
            ]).prop_map(<[u8]>::to_vec),
            prop::collection::vec(any::<u8>(), 0..4),
        ], 0..40),
        framed in any::<bool>(),
    ) {
        let content = pieces.concat();
        let body = if framed { [b"--BX\r\nContent-Disposition: form-data; ", &content[..], b"\r\n--BX--"].concat() } else { content };
        let _ = model(body);
    }
}
