//! The model name out of a form: accepted only where multer, which axum's servers read with, finds that one field and
//! no other like it, or refuses the form; and where the laziest reading finds no other either.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyDataStream, Full};
use keygate::policy::route::BodyKind;
use keygate::request_body::model::{
    BodyError, BodyFormat, ExtraModelFields, check_content_type, read,
};
use tokio::runtime::{Builder, Runtime};

use super::lazy_form::parts_that_name_a_model;
use super::{Target, bytes_of};

/// See the module.
pub struct FormModel {
    format: BodyFormat,
    runtime: Runtime,
}

const BOUNDARY: &str = "XyZ";

impl Default for FormModel {
    fn default() -> Self {
        let content_type = b"multipart/form-data; boundary=XyZ";
        Self {
            format: check_content_type(BodyKind::Multipart, Some(content_type))
                .expect("a form's header"),
            runtime: Builder::new_current_thread().build().expect("a runtime"),
        }
    }
}

impl Target for FormModel {
    const NAME: &'static str = "form_model";
    const FRAGMENTS: &'static [&'static str] = &[
        "\r\n--XyZ\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nbad",
        "\n--XyZ\nContent-Disposition: form-data; name=\"model\"\n\nbad",
        "\r\n--XyZ\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n1",
        "--XyZ",
        "--XyZ--",
        "\r\n--XyZ--\r\n",
        "\r\n--XyZ",
        "\r\n\r\n",
        "\r\n",
        "\n",
        "\r",
        "; name=\"model\"",
        "; name=model",
        "; name*=UTF-8''model",
        "; name*0=\"mo\"; name*1=\"del\"",
        "; filename=\"\"",
        "; filename=\"x\"",
        "; filename*=utf-8''x",
        "; x=\"name=model\"",
        "; size=4",
        "Content-Transfer-Encoding: base64\r\n",
        "Content-Transfer-Encoding: binary\r\n",
        "Content-Type: text/plain\r\n",
        "Content-Type: text/plain; charset=utf-16\r\n",
        "Content-Type: multipart/mixed; boundary=Y\r\n",
        "Content-Length: 4\r\n",
        "Content-Encoding: gzip\r\n",
        "Content-Disposition: form-data; name=\"model\"\r\n",
        "X-Y: z\r\n",
        "Content-Y: z\r\n",
        "Content_Disposition: form-data; name=\"model\"\r\n",
        "Content-Disposition:form-data; name=\"model\"\r\n",
        "Content-Type: multipart/form-data\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "; filename=\"; name=model\"",
        "[model]",
        "\"",
        "\\",
        "\\\"",
        ";",
        ":",
        "=",
        " ",
        "\t",
        "model",
        "Model",
        "models",
        "model[]",
        "%6dodel",
        "=?utf-8?q?model?=",
        "bad",
        "good",
        "\0",
        "--",
        "-",
        "\u{e4}",
        "_charset_",
    ];
    const WORDS: &'static [&'static str] = &["read", "ambiguous", "missing", "not a form"];

    fn examples(&self) -> Vec<Vec<u8>> {
        let mut examples = bytes_of(&[
            "--XyZ\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngood\r\n--XyZ\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFFbad\r\n--XyZ--\r\n",
            "--XyZ\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nx\r\n--XyZ\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\ngood\r\n--XyZ--",
            "--XyZ\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\nbad\r\n--XyZ\r\nContent-Disposition: form-data; name=\"model\"\r\nContent-Type: text/plain\r\n\r\ngood\r\n--XyZ--\r\n",
            "--XyZ\r\nContent-Disposition: form-data; name=model\r\nContent-Length: 4\r\n\r\ngood\r\n--XyZ--\r\n",
            "--XyZ\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n\r\n--XyZ--\r\n",
            "--XyZ\r\nContent-Disposition: form-data; name=\"Model\"\r\n\r\nbad\r\n--XyZ--\r\n",
            "--XyZ--\r\n",
            "",
        ]);
        let parts = "--XyZ\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n1\r\n".repeat(63);
        examples.push(format!("{parts}{}", String::from_utf8_lossy(&examples[1])).into_bytes());
        examples
    }

    fn check(&self, input: &[u8]) -> &'static str {
        let restricted = read(&self.format, input, ExtraModelFields::Refused);
        let unrestricted = read(&self.format, input, ExtraModelFields::Allowed);
        if let Ok(name) = &restricted {
            assert_eq!(
                unrestricted.as_ref(),
                Ok(name),
                "a key with all models is told another"
            );
        }
        if let Ok(name) = &unrestricted {
            if let Some(found) = self.runtime.block_on(multer_reads(input)) {
                assert_eq!(found, [&**name], "multer reads another model");
            }
            let lazily = parts_that_name_a_model(input);
            let alone = name.replace("\r\n", "\n");
            assert_eq!(lazily, [alone.trim()], "a lazy parser reads another model");
        }
        match restricted {
            Ok(_) => "read",
            Err(BodyError::AmbiguousModel(_)) => "ambiguous",
            Err(BodyError::MissingModel) => "missing",
            Err(_) => "not a form",
        }
    }
}

/// The contents of the fields that are called like the model; None where multer refuses the form.
async fn multer_reads(body: &[u8]) -> Option<Vec<String>> {
    let whole = Full::<Bytes>::new(Bytes::copy_from_slice(body));
    let stream = BodyDataStream::new(whole);
    let mut form = multer::Multipart::new::<_, Bytes, Infallible, _>(stream, BOUNDARY);
    let mut models = Vec::new();
    while let Some(field) = form.next_field().await.ok()? {
        let is_model = field
            .name()
            .is_some_and(|name| name.trim().to_uppercase() == "MODEL");
        let content = field.bytes().await.ok()?;
        if is_model {
            models.push(String::from_utf8_lossy(&content).into_owned());
        }
    }
    Some(models)
}
