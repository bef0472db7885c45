# What servers in Ruby read in a request: Sinatra's routes, Rack's query and forms, JSON. Prints `listening HOST:PORT`,
# and answers every request with what was read in it.

require "json"
require "rack"
require "sinatra/base"
require "webrick"

JSON_ROUTES, FORM_ROUTES = ARGV[0, 2].map { |list| list.split(",") }

# A model as it is told: text as it is, nothing as null, anything else so that it equals no name.
def told(model)
  case model
  when nil then nil
  when String then model.dup.force_encoding("UTF-8").scrub
  when Hash then model[:tempfile] ? "a file" : "not text: #{model.inspect}"
  else "not text: #{model.inspect}"
  end
end

def reading
  told(yield)
rescue StandardError => fault
  # Whatever a library raises is its refusal.
  { refused: "#{fault.class}: #{fault.message}".scrub }
end

def json_model(request)
  request.body.rewind
  document = JSON.parse(request.body.read)
  document.is_a?(Hash) ? document["model"] : nil
end

class Reader < Sinatra::Base
  set :environment, :production
  set :logging, false
  set :show_exceptions, false
  set :raise_errors, false
  disable :protection, :static

  def answer
    path = request.path_info
    body = {}
    body["JSON.parse"] = reading { json_model(request) } if JSON_ROUTES.include?(path)
    body["Rack"] = reading { request.POST["model"] } if FORM_ROUTES.include?(path)
    query = reading { Rack::Utils.parse_nested_query(request.query_string)["model"] }
    content_type :json
    status 200
    { served: path, query: { "Rack" => query.is_a?(Hash) ? nil : query }, body: body }.to_json
  end

  [*JSON_ROUTES, *FORM_ROUTES].each { |route| post(route) { answer } }
  # Sinatra reads form and query before it looks for a route, and refuses those that Rack refuses.
  error(400) { answer }
  error { answer }
end

quiet = WEBrick::Log.new(File::NULL)
server = WEBrick::HTTPServer.new(BindAddress: "127.0.0.1", Port: 0, Logger: quiet, AccessLog: [])
server.mount("/", Rack::Handler::WEBrick, Reader)
puts "listening 127.0.0.1:#{server.listeners.first.addr[1]}"
$stdout.flush
# The parent's end of standard input closes when the parent ends, whatever ends it.
Thread.new do
  $stdin.read
  server.shutdown
end
trap("TERM") { server.shutdown }
server.start
