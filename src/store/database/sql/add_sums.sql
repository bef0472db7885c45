-- A sum grows to 2^53 at most: an upstream may say any numbers, and an overflow would refuse the whole batch for ever.
INSERT INTO usage_sums (
    scope, width, start, subject, account, model, upstream, requests, errors, at_least, unknown, input_tokens,
    input_cached_tokens, output_tokens, output_reasoning_tokens, audio_microseconds, images, cost
) /*rows*/
ON CONFLICT (scope, width, start, subject, account, model, upstream) DO UPDATE SET
    requests = usage_sums.requests + excluded.requests,
    errors = usage_sums.errors + excluded.errors,
    at_least = usage_sums.at_least + excluded.at_least,
    unknown = usage_sums.unknown + excluded.unknown,
    input_tokens = COALESCE(
        CASE
            WHEN usage_sums.input_tokens > 9007199254740992 - excluded.input_tokens THEN 9007199254740992
            ELSE usage_sums.input_tokens + excluded.input_tokens
        END,
        usage_sums.input_tokens,
        excluded.input_tokens
    ),
    input_cached_tokens = COALESCE(
        CASE
            WHEN usage_sums.input_cached_tokens > 9007199254740992 - excluded.input_cached_tokens THEN 9007199254740992
            ELSE usage_sums.input_cached_tokens + excluded.input_cached_tokens
        END,
        usage_sums.input_cached_tokens,
        excluded.input_cached_tokens
    ),
    output_tokens = COALESCE(
        CASE
            WHEN usage_sums.output_tokens > 9007199254740992 - excluded.output_tokens THEN 9007199254740992
            ELSE usage_sums.output_tokens + excluded.output_tokens
        END,
        usage_sums.output_tokens,
        excluded.output_tokens
    ),
    output_reasoning_tokens = COALESCE(
        CASE
            WHEN usage_sums.output_reasoning_tokens > 9007199254740992 - excluded.output_reasoning_tokens THEN 9007199254740992
            ELSE usage_sums.output_reasoning_tokens + excluded.output_reasoning_tokens
        END,
        usage_sums.output_reasoning_tokens,
        excluded.output_reasoning_tokens
    ),
    audio_microseconds = COALESCE(
        CASE
            WHEN usage_sums.audio_microseconds > 9007199254740992 - excluded.audio_microseconds THEN 9007199254740992
            ELSE usage_sums.audio_microseconds + excluded.audio_microseconds
        END,
        usage_sums.audio_microseconds,
        excluded.audio_microseconds
    ),
    images = COALESCE(
        CASE
            WHEN usage_sums.images > 9007199254740992 - excluded.images THEN 9007199254740992
            ELSE usage_sums.images + excluded.images
        END,
        usage_sums.images,
        excluded.images
    ),
    cost = COALESCE(
        CASE
            WHEN usage_sums.cost > 9007199254740992 - excluded.cost THEN 9007199254740992
            ELSE usage_sums.cost + excluded.cost
        END,
        usage_sums.cost,
        excluded.cost
    )
