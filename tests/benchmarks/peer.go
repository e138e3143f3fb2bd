// The same work in Go: first event per key, in windows of so many events. Reads keys from standard input, one a line,
// writes CPU seconds, wall seconds, events kept, and the checksum. "serve" is the service: NDJSON posts, decoded in full.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

type Event struct {
	ID string
	N  int
}

func cpu() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

type total struct{ kept, sum int }

func (t *total) close(first map[string]*Event) {
	t.kept += len(first)
	for _, event := range first {
		t.sum += event.N + 1
	}
}

func overMap(events []*Event, window int) total {
	var t total
	for start := 0; start < len(events); start += window {
		first := make(map[string]*Event)
		end := start + window
		if end > len(events) {
			end = len(events)
		}
		for _, event := range events[start:end] {
			if _, held := first[event.ID]; !held {
				first[event.ID] = event
			}
		}
		t.close(first)
	}
	return t
}

// A reducer that selects between events and a stop, as the service does.
func overChannels(events []*Event, window int) total {
	var t total
	in, stop, windows := make(chan *Event, 1000), make(chan struct{}), make(chan map[string]*Event, 1)
	go func() {
		for _, event := range events {
			in <- event
		}
		close(in)
	}()
	go func() {
		defer close(windows)
		first, received := make(map[string]*Event), 0
		for {
			select {
			case event, open := <-in:
				if !open {
					windows <- first
					return
				}
				if _, held := first[event.ID]; !held {
					first[event.ID] = event
				}
				if received++; received == window {
					windows <- first
					first, received = make(map[string]*Event), 0
				}
			case <-stop:
				return
			}
		}
	}()
	for first := range windows {
		t.close(first)
	}
	return t
}

func serve() {
	var lock sync.Mutex
	first := make(map[string]map[string]any)
	http.HandleFunc("/", func(writer http.ResponseWriter, request *http.Request) {
		lines := bufio.NewScanner(request.Body)
		lock.Lock()
		defer lock.Unlock()
		for lines.Scan() {
			var event map[string]any
			if json.Unmarshal(lines.Bytes(), &event) == nil {
				key := event["id"].(string)
				if _, held := first[key]; !held {
					first[key] = event
				}
			}
		}
		writer.WriteHeader(http.StatusAccepted)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	go http.Serve(listener, nil)
	// each line asks for the CPU seconds until now, and the keys that are held
	asked := bufio.NewScanner(os.Stdin)
	for asked.Scan() {
		lock.Lock()
		fmt.Println(cpu(), len(first))
		lock.Unlock()
	}
}

func main() {
	if os.Args[1] == "serve" {
		serve()
		return
	}
	window, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	var events []*Event
	input := bufio.NewReader(os.Stdin)
	for {
		line, err := input.ReadString('\n')
		if err == nil {
			line = line[:len(line)-1]
		}
		if line != "" {
			events = append(events, &Event{ID: line, N: len(events)})
		}
		if err == io.EOF {
			break
		}
	}
	work := map[string]func([]*Event, int) total{"map": overMap, "select": overChannels}[os.Args[1]]
	began, wall := cpu(), time.Now()
	found := work(events, window)
	fmt.Println(cpu()-began, time.Since(wall).Seconds(), found.kept, found.sum)
}
