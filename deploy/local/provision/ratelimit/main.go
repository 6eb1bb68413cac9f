// Command ratelimit is envoyproxy/ratelimit, whose listeners for HTTP, debugging and numbers, which
// know no TLS, are Unix sockets for its user alone. PROMETHEUS_ADDR is a path here.
package main

import (
	"log"
	"net/http"
	"syscall"

	"github.com/envoyproxy/ratelimit/src/service_cmd/runner"
	"github.com/envoyproxy/ratelimit/src/settings"
	"github.com/libp2p/go-reuseport"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func main() {
	syscall.Umask(0o177)
	told := settings.NewSettings()
	// ratelimit itself can't listen there: without a port it is no address, which it doesn't mind.
	numbers, err := reuseport.Socket(told.PrometheusAddr)
	if err != nil {
		log.Fatalf("can't listen for Prometheus: %v", err)
	}
	run := runner.NewRunner(told)
	go func() {
		log.Fatal(http.Serve(numbers, promhttp.Handler()))
	}()
	run.Run()
}
