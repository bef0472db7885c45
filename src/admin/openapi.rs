//! GET /api/openapi.json: the API's description. `tests/clients/test_openapi.py` checks it against the running binary.

use std::sync::LazyLock;

use bytes::Bytes;

use crate::admin::response::ApiResponse;

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let text = include_str!("openapi.json");
    text.replacen("VERSION", env!("CARGO_PKG_VERSION"), 1)
        .into()
});

/// GET /api/openapi.json
pub(super) fn document() -> ApiResponse {
    ApiResponse::json_text(DOCUMENT.clone())
}

#[cfg(test)]
pub(super) fn text() -> Bytes {
    DOCUMENT.clone()
}
