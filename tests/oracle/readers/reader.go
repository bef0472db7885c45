// What servers on Go read in a request: net/http's routes, query and forms, encoding/json into a struct and a map.
// Prints `listening HOST:PORT`, and answers every request with what was read in it.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

type refusal struct {
	Refused string `json:"refused"`
}

type payload struct {
	Model *string `json:"model"`
}

// A reading is a string, nil where nothing was read, or a refusal.
func told(model *string, err error) any {
	if err != nil {
		return refusal{err.Error()}
	}
	if model == nil {
		return nil
	}
	return *model
}

func readJSON(r *http.Request, body []byte) map[string]any {
	var whole payload
	errWhole := json.Unmarshal(body, &whole)

	var first payload
	errFirst := json.NewDecoder(bytes.NewReader(body)).Decode(&first)

	var fields map[string]any
	errFields := json.Unmarshal(body, &fields)
	var model *string
	if value, ok := fields["model"]; ok && value != nil {
		text, isText := value.(string)
		if !isText {
			text = fmt.Sprintf("not text: %v", value)
		}
		model = &text
	}
	return map[string]any{
		"json.Unmarshal, struct": told(whole.Model, errWhole),
		"json.Decoder, struct":   told(first.Model, errFirst),
		"json.Unmarshal, map":    told(model, errFields),
	}
}

// The request once more, for another way to read it.
func again(r *http.Request, body []byte) *http.Request {
	copied := r.Clone(r.Context())
	copied.Body = io.NopCloser(bytes.NewReader(body))
	return copied
}

func readForm(r *http.Request, body []byte) map[string]any {
	parsed := again(r, body)
	errParsed := parsed.ParseMultipartForm(32 << 20)
	var value *string
	if errParsed == nil {
		// The query's values come first in Form, and only the form's in PostForm: both have to be the one.
		values := parsed.Form["model"]
		switch {
		case len(values) == 1:
			value = &values[0]
		case len(values) > 1:
			several := fmt.Sprintf("several: %q", values)
			value = &several
		}
		if parsed.MultipartForm != nil && len(parsed.MultipartForm.File["model"]) > 0 {
			file := "a file"
			value = &file
		}
	}

	var models []string
	parts, errStreamed := again(r, body).MultipartReader()
	for errStreamed == nil {
		part, err := parts.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			errStreamed = err
			break
		}
		content, err := io.ReadAll(part)
		if err != nil {
			errStreamed = err
			break
		}
		if part.FormName() == "model" {
			models = append(models, string(content))
		}
	}
	var streamed *string
	switch {
	case len(models) == 1:
		streamed = &models[0]
	case len(models) > 1:
		several := fmt.Sprintf("several: %q", models)
		streamed = &several
	}
	return map[string]any{
		"FormValue":       told(value, errParsed),
		"MultipartReader": told(streamed, errStreamed),
	}
}

func serve(mux *http.ServeMux, route string, read func(*http.Request, []byte) map[string]any) {
	mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		query := map[string]any{"URL.Query": nil}
		if values, ok := r.URL.Query()["model"]; ok {
			query["URL.Query"] = values[0]
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"served": route, "query": query, "body": read(r, body)})
	})
}

func main() {
	mux := http.NewServeMux()
	for _, route := range strings.Split(os.Args[1], ",") {
		serve(mux, route, readJSON)
	}
	for _, route := range strings.Split(os.Args[2], ",") {
		serve(mux, route, readForm)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println("listening", listener.Addr())
	go http.Serve(listener, mux)
	// The parent's end of standard input closes when the parent ends, whatever ends it.
	io.Copy(io.Discard, os.Stdin)
}
