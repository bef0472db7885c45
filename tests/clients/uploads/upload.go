// Sends a body of BYTES with net/http, and prints the status: `upload URL TOKEN BYTES AUTHORITY`.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	length, err := strconv.Atoi(os.Args[3])
	must(err)
	pem, err := os.ReadFile(os.Args[4])
	must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		ForceAttemptHTTP2: true,
	}}
	body := bytes.NewReader(bytes.Repeat([]byte(" "), length))
	request, err := http.NewRequest("POST", os.Args[1], body)
	must(err)
	request.Header.Set("Authorization", "Bearer "+os.Args[2])
	request.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(request)
	must(err)
	_, err = io.ReadAll(answer.Body)
	must(err)
	fmt.Println(answer.StatusCode)
}
