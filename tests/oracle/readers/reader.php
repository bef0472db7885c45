<?php
// What servers in PHP read in a request: $_GET, $_POST and json_decode. A router for PHP's own web server, which
// reader_php.py starts: it answers every request with what was read in it.

$routes = fn (string $list): array => explode(',', getenv($list));

// A model as it is told: text as it is, nothing as null, anything else so that it equals no name.
$told = fn ($model) => $model === null || is_string($model) ? $model : 'not text: ' . json_encode($model);

function read_json(): mixed
{
    $document = json_decode(file_get_contents('php://input'), true, 512, JSON_THROW_ON_ERROR);
    return is_array($document) ? $document['model'] ?? null : null;
}

function read_object(): mixed
{
    $document = json_decode(file_get_contents('php://input'), false, 512, JSON_THROW_ON_ERROR);
    return is_object($document) ? $document->model ?? null : null;
}

function read_form(): mixed
{
    $models = array_merge(
        array_key_exists('model', $_POST) ? [$_POST['model']] : [],
        array_key_exists('model', $_FILES) ? [['file' => 'model']] : [],
    );
    return count($models) > 1 ? $models : $models[0] ?? null;
}

function reading(callable $read): mixed
{
    global $told;
    try {
        return $told($read());
    } catch (Throwable $fault) {
        return ['refused' => $fault->getMessage()];
    }
}

$path = explode('?', $_SERVER['REQUEST_URI'], 2)[0];
header('Content-Type: application/json');
if (in_array($path, $routes('JSON_ROUTES'), true)) {
    $body = ['json_decode, array' => reading(read_json(...)), 'json_decode, object' => reading(read_object(...))];
} elseif (in_array($path, $routes('FORM_ROUTES'), true)) {
    $body = ['$_POST' => reading(read_form(...))];
} else {
    http_response_code(404);
    $path = null;
    $body = [];
}
$query = ['$_GET' => $told($_GET['model'] ?? null)];
echo json_encode(['served' => $path, 'query' => $query, 'body' => (object) $body], JSON_INVALID_UTF8_SUBSTITUTE);
