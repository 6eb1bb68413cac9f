// Package reuseport takes the place of github.com/libp2p/go-reuseport, by which ratelimit opens its
// listeners. A port that another process listens on is an error here.
package reuseport

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// Listen listens at host:port, or on a Unix socket if the host is an absolute path.
func Listen(network, address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil || !filepath.IsAbs(host) {
		return net.Listen(network, address)
	}
	return Socket(host)
}

// Socket listens on a Unix socket, also where a process that was killed left one.
func Socket(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}
