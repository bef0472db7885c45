//! Forms as real clients write them.

use super::*;

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
