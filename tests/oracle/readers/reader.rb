# What servers in Ruby read in a request: Sinatra's routes and parameters, Rack's query and forms, WEBrick's forms, JSON.
# Prints `listening HOST:PORT`, and answers every request with what was read in it.

require "json"
require "rack"
require "sinatra/base"
require "stringio"
require "webrick"

JSON_ROUTES, FORM_ROUTES = ARGV[0, 2].map { |list| list.split(",") }

# A model as it is told: text as it is, nothing as null, anything else so that it equals no name.
def told(model)
  case model
  when nil then nil
  # WEBrick's is a text that knows of others of its name.
  when String then model.to_s.dup.force_encoding("UTF-8").scrub
  else "not text: #{model.inspect}"
  end
end

def reading
  told(yield)
rescue StandardError => fault
  # Whatever a library raises is its refusal.
  { refused: "#{fault.class}: #{fault.message}".scrub }
end

def webrick_form(body, content_type)
  boundary = WEBrick::HTTPUtils.parse_header("content-type: #{content_type}\r\n") && content_type[/boundary=(.+)/, 1]
  form = WEBrick::HTTPUtils.parse_form_data(StringIO.new(body), WEBrick::HTTPUtils.dequote(boundary.to_s))
  models = form["model"]&.list || []
  models.length > 1 ? models : models.first
end

class Reader < Sinatra::Base
  set :environment, :production
  set :logging, false
  set :show_exceptions, false
  disable :protection, :static

  def answer(readings)
    content_type :json
    query = reading { Rack::Utils.parse_nested_query(request.query_string)["model"] }
    { served: request.path_info, query: { "Rack" => query.is_a?(Hash) ? nil : query }, body: readings }.to_json
  end

  def body_text
    request.body.rewind
    request.body.read
  end

  JSON_ROUTES.each do |route|
    post(route) do
      answer({ "JSON.parse" => reading { (document = JSON.parse(body_text)).is_a?(Hash) ? document["model"] : nil } })
    end
  end

  FORM_ROUTES.each do |route|
    post(route) do
      answer({
        "Rack" => reading { request.POST["model"] },
        "Sinatra" => reading { request.query_string.empty? ? params["model"] : request.POST["model"] },
        "WEBrick" => reading { webrick_form(body_text, request.content_type) },
      })
    end
  end

  # Rack's refusal of a form or a query comes before any route.
  error(400) do
    status 200
    answer({ "Rack" => { refused: "400" } })
  end
  error do
    status 200
    answer({ "Sinatra" => { refused: "#{env["sinatra.error"]&.class}" } })
  end
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
