// asynq's group aggregation: how many tasks a second are enqueued into groups, and how late groups
// are handed out. A child of the benchmark: says that it is ready, waits for a line, prints JSON.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hibiken/asynq"
)

type options struct {
	Socket   string  `json:"socket"`
	Name     string  `json:"name"`
	InFlight int     `json:"in_flight"`
	Seconds  float64 `json:"seconds"`
	Count    int     `json:"count"`
	GraceS   float64 `json:"grace_s"`
}

var payload = []byte(strings.Repeat("x", 200))

func main() {
	var given options
	if err := json.Unmarshal([]byte(os.Args[2]), &given); err != nil {
		log.Fatal(err)
	}
	at := asynq.RedisClientOpt{Network: "unix", Addr: given.Socket}
	client := asynq.NewClient(at)
	defer client.Close()
	result := map[string]any{}
	if os.Args[1] == "lateness" {
		result = lateness(at, client, given)
	} else {
		result = rate(client, given)
	}
	encoded, _ := json.Marshal(result)
	fmt.Println(string(encoded))
}

func ready() time.Duration {
	fmt.Println("ready")
	bufio.NewReader(os.Stdin).ReadString('\n')
	return cpu()
}

func cpu() time.Duration {
	var used syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func closed(given options, client *asynq.Client, seconds float64) int64 {
	ends := time.Now().Add(time.Duration(seconds * float64(time.Second)))
	var count, n atomic.Int64
	var all sync.WaitGroup
	for range given.InFlight {
		all.Add(1)
		go func() {
			defer all.Done()
			for time.Now().Before(ends) {
				group := fmt.Sprintf("chat-%d", n.Add(1)%5000)
				task := asynq.NewTask("message", payload)
				if _, err := client.Enqueue(task, asynq.Queue(given.Name), asynq.Group(group)); err != nil {
					log.Fatal(err)
				}
				count.Add(1)
			}
		}()
	}
	all.Wait()
	return count.Load()
}

func rate(client *asynq.Client, given options) map[string]any {
	closed(given, client, min(0.5, given.Seconds))
	used, began := ready(), time.Now()
	count := closed(given, client, given.Seconds)
	took := time.Since(began)
	busy := float64(cpu()-used) / float64(took)
	return map[string]any{"count": count, "seconds": took.Seconds(), "busy": busy}
}

// One message in each of many groups; a group is due when its grace is over.
func lateness(at asynq.RedisClientOpt, client *asynq.Client, given options) map[string]any {
	var mutex sync.Mutex
	late := []float64{}
	done := make(chan struct{})
	grace := time.Duration(given.GraceS * float64(time.Second))
	server := asynq.NewServer(at, asynq.Config{
		Concurrency: 100, Queues: map[string]int{given.Name: 1}, LogLevel: asynq.FatalLevel,
		GroupGracePeriod: grace,
		GroupAggregator: asynq.GroupAggregatorFunc(func(group string, tasks []*asynq.Task) *asynq.Task {
			return asynq.NewTask("batch", tasks[len(tasks)-1].Payload())
		}),
	})
	handler := asynq.HandlerFunc(func(_ context.Context, task *asynq.Task) error {
		var due int64
		fmt.Sscan(string(task.Payload()), &due)
		mutex.Lock()
		defer mutex.Unlock()
		late = append(late, float64(time.Now().UnixMicro()-due)/1000)
		if len(late) == given.Count {
			close(done)
		}
		return nil
	})
	if err := server.Start(handler); err != nil {
		log.Fatal(err)
	}
	used, began := ready(), time.Now()
	for n := range given.Count {
		time.Sleep(time.Until(began.Add(time.Duration(n) * 800 * time.Microsecond)))
		due := time.Now().Add(grace).UnixMicro()
		task := asynq.NewTask("message", []byte(fmt.Sprintf("%d %s", due, payload)))
		group := fmt.Sprintf("late-%d", n)
		if _, err := client.Enqueue(task, asynq.Queue(given.Name), asynq.Group(group)); err != nil {
			log.Fatal(err)
		}
	}
	<-done
	busy := float64(cpu()-used) / float64(time.Since(began))
	server.Shutdown()
	sort.Float64s(late)
	place := func(share float64) float64 { return late[min(len(late)-1, int(share*float64(len(late))))] }
	return map[string]any{"p50": place(.5), "p99": place(.99), "max": late[len(late)-1], "late": late, "busy": busy}
}

