// SPDX-License-Identifier: MIT
// An ordinary server: it binds its port itself, has no signal handler and knows nothing of handoffd.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const letters = "abcdefghijklmnopqrstuvwxyz"

func answer(w http.ResponseWriter, r *http.Request) {
	nonce := r.URL.Query().Get("n")
	size, _ := strconv.Atoi(r.URL.Query().Get("size"))
	sleep, _ := strconv.ParseFloat(r.URL.Query().Get("sleep"), 64)
	hash := uint32(2166136261)

	for _, c := range []byte(nonce) {
		hash = (hash ^ uint32(c)) * 16777619
	}
	start := int(hash % 26)
	time.Sleep(time.Duration(sleep * float64(time.Second)))
	fmt.Fprintf(w, "pid=%d generation=%s n=%s\n%s", os.Getpid(), os.Getenv("HANDOFF_GENERATION"), nonce,
		strings.Repeat(letters, size/26+2)[start:start+size])
}

func main() {
	log.Fatal(http.ListenAndServe(":8080", http.HandlerFunc(answer)))
}
