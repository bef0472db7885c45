//! Which part is the model: names, filenames and Content-Dispositions.

use super::*;

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
        // Rack drops brackets before a name.
        "\"[model]\"",
        "\"[Model]\"",
        "\"[]model\"",
        "\"[[model]]\"",
        "\"][model][x]\"",
        "\"%5Bmodel%5D\"",
        "\"[ model]\"",
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
            "content-disposition: form-data; name=\"model\"",
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
        // Parsers read the end of these filenames differently.
        "form-data; name=\"x\"; filename=\"a\\\"; name=model; b=\\\"\"",
        "form-data; name=\"x\"; filename=\"\\\\; name=model\"",
        "form-data; name=\"x\"; filename=\"a\"; filename=\"; name=model\"",
        "form-data; name=\"x\"; filename=\"; name=model\"; filename=\"a\"",
        // No filename at all:
        "form-data; name=\"x\"; y=\"; name=model\"",
        "form-data; name=\"x\"; xfilename=\"; name=model\"",
        // Rack reads a filename in lower case alone.
        "form-data; name=\"x\"; FileName=\"; name=model\"",
        // A name of the part's own beside the one in the filename:
        "form-data; name=\"x\"; filename=\"; name=model\"; name=\"y\"",
        "form-data; name=\"x\"; filename=\"; name=model\"; name*=utf-8''y",
        "form-data; y=z; name=\"x\"; filename=\"; name=model\"",
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
        // The part's own name stands before it, so that every parser knows what the part is called.
        "; name=model",
        "a; name=model.wav",
        "a;name=model;b",
        " name = model",
        "; name=a; name=b",
        "; name*=utf-8''model",
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
fn a_filename_in_any_header_of_the_model_is_ambiguous() {
    // Rack looks for it in all of them.
    for header in [
        "Content-Type: text/plain; filename=\"\"",
        "Content-Type: text/plain; charset=utf-8; FileName=x",
        "Content-Id: x; filename=y",
        "Content-Language: filename*=utf-8''y",
    ] {
        for headers in [
            format!("{}\r\n{header}", MODEL_PART.0),
            format!("{header}\r\n{}", MODEL_PART.0),
        ] {
            let verdict = model(form(&[(&headers, b"good"), FILE_PART]));
            assert_eq!(verdict, ambiguous(Ambiguity::File), "{headers}");
        }
    }
}

#[test]
fn a_filename_that_holds_a_name_is_the_only_one_of_its_part() {
    let disposition = "Content-Disposition: form-data; name=\"x\"; filename=\"; name=model\"";
    for (header, expected) in [
        ("Content-Type: audio/wav", named("good")),
        (
            "Content-Type: audio/wav; name=a.wav",
            ambiguous(Ambiguity::SeveralNames),
        ),
        (
            "Content-Id: a; filename=\"\"",
            ambiguous(Ambiguity::SeveralNames),
        ),
    ] {
        for headers in [
            format!("{disposition}\r\n{header}"),
            format!("{header}\r\n{disposition}"),
        ] {
            let verdict = model(form(&[MODEL_PART, (&headers, b"bad")]));
            assert_eq!(verdict, expected, "{headers}");
        }
    }
}
