# Uploads a file for transcription, each client as its users write it, and prints the status:
# `ruby upload_form.rb CLIENT URL TOKEN FILE`.

client, base, token, file = ARGV
url = "#{base}/audio/transcriptions"
fields = { "model" => "whisper-1", "language" => "de" }
authorization = { "Authorization" => "Bearer #{token}" }

case client
when "net-http"
  require "net/http"
  uri = URI(url)
  request = Net::HTTP::Post.new(uri, authorization)
  request.set_form([*fields.to_a, ["file", File.open(file)]], "multipart/form-data")
  puts Net::HTTP.start(uri.host, uri.port, read_timeout: 20) { |http| http.request(request) }.code
when "faraday"
  require "faraday"
  connection = Faraday.new(url: base, headers: authorization) do |made|
    made.request :multipart
    made.adapter :net_http
  end
  part = Faraday::FilePart.new(file, "audio/wav")
  puts connection.post(url, fields.merge("file" => part)).status
when "rest-client"
  require "rest-client"
  puts RestClient.post(url, fields.merge("multipart" => true, "file" => File.open(file)), authorization).code
else
  abort "no client is called #{client}"
end
