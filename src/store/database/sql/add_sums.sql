INSERT INTO usage_sums (
    scope, width, start, subject, account, model, upstream, requests, errors, at_least, unknown, input_tokens,
    input_cached_tokens, output_tokens, output_reasoning_tokens, audio_microseconds, images, cost
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
ON CONFLICT (scope, width, start, subject, account, model, upstream) DO UPDATE SET
    requests = usage_sums.requests + excluded.requests,
    errors = usage_sums.errors + excluded.errors,
    at_least = usage_sums.at_least + excluded.at_least,
    unknown = usage_sums.unknown + excluded.unknown,
    input_tokens = COALESCE(
        usage_sums.input_tokens + excluded.input_tokens, usage_sums.input_tokens, excluded.input_tokens
    ),
    input_cached_tokens = COALESCE(
        usage_sums.input_cached_tokens + excluded.input_cached_tokens,
        usage_sums.input_cached_tokens,
        excluded.input_cached_tokens
    ),
    output_tokens = COALESCE(
        usage_sums.output_tokens + excluded.output_tokens, usage_sums.output_tokens, excluded.output_tokens
    ),
    output_reasoning_tokens = COALESCE(
        usage_sums.output_reasoning_tokens + excluded.output_reasoning_tokens,
        usage_sums.output_reasoning_tokens,
        excluded.output_reasoning_tokens
    ),
    audio_microseconds = COALESCE(
        usage_sums.audio_microseconds + excluded.audio_microseconds,
        usage_sums.audio_microseconds,
        excluded.audio_microseconds
    ),
    images = COALESCE(usage_sums.images + excluded.images, usage_sums.images, excluded.images),
    cost = COALESCE(usage_sums.cost + excluded.cost, usage_sums.cost, excluded.cost)
