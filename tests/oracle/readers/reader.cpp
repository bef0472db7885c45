// What servers in C++ read in a request: the routes, query and forms of cpp-httplib, which llama.cpp serves with, and
// the JSON of nlohmann, which llama.cpp reads with, of RapidJSON, simdjson, cJSON and json-c. Prints
// `listening HOST:PORT`, and answers every request with what was read in it.

#include <cstdio>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>

#include <cjson/cJSON.h>
#include <httplib.h>
#include <json-c/json.h>
#include <nlohmann/json.hpp>
#include <rapidjson/document.h>
#include <simdjson.h>

using nlohmann::json;

// A reading is a string, null where nothing was read, or a refusal.
static json refused(const std::string &why) { return {{"refused", why}}; }

static json nlohmann_reads(const std::string &body) {
  try {
    json document = json::parse(body);
    if (!document.is_object() || !document.contains("model") || document["model"].is_null()) return nullptr;
    const json &model = document["model"];
    return model.is_string() ? model : json("not text: " + model.dump(-1, ' ', false, json::error_handler_t::replace));
  } catch (const std::exception &fault) {
    return refused(fault.what());
  }
}

template <unsigned flags> static json rapidjson_reads(const std::string &body) {
  rapidjson::Document document;
  document.Parse<flags>(body.c_str(), body.size());
  if (document.HasParseError()) return refused("error " + std::to_string(document.GetParseError()));
  if (!document.IsObject() || !document.HasMember("model") || document["model"].IsNull()) return nullptr;
  const auto &model = document["model"];
  if (!model.IsString()) return "not text";
  return std::string(model.GetString(), model.GetStringLength());
}

static json simdjson_dom_reads(const std::string &body) {
  static thread_local simdjson::dom::parser parser;
  simdjson::dom::element document;
  auto fault = parser.parse(simdjson::padded_string(body)).get(document);
  if (fault) return refused(simdjson::error_message(fault));
  simdjson::dom::element model;
  if (document["model"].get(model) || model.is_null()) return nullptr;
  std::string_view text;
  if (model.get(text)) return "not text";
  return std::string(text);
}

// By unescaped names: `document["model"]` compares what stands between the quotes.
static json simdjson_ondemand_reads(const std::string &body) {
  static thread_local simdjson::ondemand::parser parser;
  simdjson::padded_string padded(body);
  try {
    simdjson::ondemand::document document = parser.iterate(padded);
    json reading = nullptr;
    for (auto field : document.get_object()) {
      if (std::string_view(field.unescaped_key()) == "model") {
        reading = reading.is_null() ? json(std::string(std::string_view(field.value().get_string()))) : json("several");
      }
    }
    return reading;
  } catch (const simdjson::simdjson_error &fault) {
    return refused(fault.what());
  }
}

// Both keep text as C strings, which end at a NUL.
static json cjson_reads(const std::string &body, bool by_exact_case) {
  cJSON *document = cJSON_ParseWithLengthOpts(body.data(), body.size(), nullptr, false);
  if (!document) return refused("not JSON");
  const cJSON *model = by_exact_case ? cJSON_GetObjectItemCaseSensitive(document, "model") : cJSON_GetObjectItem(document, "model");
  json reading = nullptr;
  if (model && !cJSON_IsNull(model)) reading = cJSON_IsString(model) ? json(model->valuestring) : json("not text");
  cJSON_Delete(document);
  return reading;
}

static json json_c_reads(const std::string &body, int flags) {
  json_tokener *tokener = json_tokener_new_ex(256);
  json_tokener_set_flags(tokener, flags);
  json_object *document = json_tokener_parse_ex(tokener, body.data(), static_cast<int>(body.size()));
  json reading = nullptr;
  json_object *model = nullptr;
  if (json_tokener_get_error(tokener) != json_tokener_success) {
    reading = refused(json_tokener_error_desc(json_tokener_get_error(tokener)));
  } else if (json_object_object_get_ex(document, "model", &model) && model) {
    const char *text = json_object_get_string(model);
    const size_t length = json_object_get_string_len(model);
    reading = json_object_is_type(model, json_type_string) ? json(std::string(text, length)) : json("not text");
  }
  json_object_put(document);
  json_tokener_free(tokener);
  return reading;
}

constexpr unsigned STRICT = rapidjson::kParseValidateEncodingFlag | rapidjson::kParseIterativeFlag;

static json read_json(const httplib::Request &request) {
  return {
      {"nlohmann", nlohmann_reads(request.body)},
      {"RapidJSON", rapidjson_reads<rapidjson::kParseDefaultFlags>(request.body)},
      {"RapidJSON, strict", rapidjson_reads<STRICT>(request.body)},
      {"simdjson, DOM", simdjson_dom_reads(request.body)},
      {"simdjson, on demand", simdjson_ondemand_reads(request.body)},
      {"cJSON", cjson_reads(request.body, false)},
      {"cJSON, exact case", cjson_reads(request.body, true)},
      {"json-c", json_c_reads(request.body, 0)},
      {"json-c, strict", json_c_reads(request.body, JSON_TOKENER_STRICT)},
  };
}

static json read_form(const httplib::Request &request) {
  auto [model, end] = request.files.equal_range("model");
  json reading = nullptr;
  if (model != end) reading = std::next(model) == end ? model->second.content : "several";
  if (!request.is_multipart_form_data()) reading = refused("not a form");
  return {{"cpp-httplib", reading}};
}

int main(int, char **arguments) {
  httplib::Server server;
  server.set_keep_alive_max_count(1 << 30);
  server.set_keep_alive_timeout(60);
  auto serve = [&](const std::string &list, std::function<json(const httplib::Request &)> read) {
    std::stringstream routes(list);
    for (std::string route; std::getline(routes, route, ',');) {
      server.Post(route, [route, read](const httplib::Request &request, httplib::Response &response) {
        json model = request.has_param("model") ? json(request.get_param_value("model")) : json(nullptr);
        json answer = {{"served", route}, {"query", {{"cpp-httplib", model}}}, {"body", read(request)}};
        response.set_content(answer.dump(-1, ' ', false, json::error_handler_t::replace), "application/json");
      });
    }
  };
  serve(arguments[1], read_json);
  serve(arguments[2], read_form);
  int port = server.bind_to_any_port("127.0.0.1");
  std::cout << "listening 127.0.0.1:" << port << std::endl;
  // The parent's end of standard input closes when the parent ends, whatever ends it.
  std::thread([&] {
    while (std::getchar() != EOF) {}
    server.stop();
  }).detach();
  server.listen_after_bind();
}
