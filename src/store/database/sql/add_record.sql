INSERT INTO usage_records (
    request_id, gateway, started_at, ended_at, key_id, account, model, upstream, route, status, end_kind,
    client_address, first_byte_ms, duration_ms, bytes_in, bytes_out, input_tokens, input_cached_tokens, output_tokens,
    output_reasoning_tokens, audio_microseconds, images, certainty, cost
) /*rows*/
