//! The API's description for machines. `tests/clients/test_openapi.py` holds it against the running binary.

use std::sync::LazyLock;

use bytes::Bytes;

use crate::admin::reply::Reply;

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let text = include_str!("openapi.json");
    text.replacen("VERSION", env!("CARGO_PKG_VERSION"), 1)
        .into()
});

/// GET /api/openapi.json
pub(super) fn document() -> Reply {
    Reply::json_text(DOCUMENT.clone())
}
