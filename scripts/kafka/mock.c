// SPDX-License-Identifier: Apache-2.0
//
// A stand-in for Kafka where no Java is at hand: the mock cluster inside librdkafka, kept running for other processes.
// It is not Kafka: one broker, everything in memory, topics come into being when they are first asked for.
//
//   mock PORT      prints its bootstrap servers once it listens, and runs until SIGTERM or SIGINT

#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

static in_port_t wanted_port;

// The mock cluster always binds port 0. This definition takes the place of the C library's, also inside librdkafka, and
// gives it the port that was asked for: a restarted broker must be found where it was.
int bind(int fd, const struct sockaddr* address, socklen_t length) {
  struct sockaddr_in in;
  if (address->sa_family == AF_INET && length == sizeof in) {
    memcpy(&in, address, sizeof in);
    if (in.sin_port == 0 && wanted_port != 0) {
      const int on = 1;
      setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
      in.sin_port = htons(wanted_port);
      return (int)syscall(SYS_bind, fd, &in, length);
    }
  }
  return (int)syscall(SYS_bind, fd, address, length);
}

int main(int argc, char** argv) {
  char* end = NULL;
  const long port = argc == 2 ? strtol(argv[1], &end, 10) : 0;
  if (argc != 2 || *end != '\0' || port < 1 || port > 65535) {
    fprintf(stderr, "usage: %s PORT\n", argv[0]);
    return 2;
  }
  wanted_port = (in_port_t)port;

  sigset_t stop;  // blocked before librdkafka starts its threads, so that only sigwait sees them
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop, NULL);

  char error[512];
  rd_kafka_conf_t* conf = rd_kafka_conf_new();
  rd_kafka_conf_set(conf, "log_level", "3", error, sizeof error);  // errors; not that this handle has no servers of its own
  rd_kafka_t* handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof error);
  if (handle == NULL) {
    fprintf(stderr, "mock: %s\n", error);
    return 1;
  }
  rd_kafka_mock_cluster_t* cluster = rd_kafka_mock_cluster_new(handle, 1);
  if (cluster == NULL) {
    fprintf(stderr, "mock: cannot listen on 127.0.0.1:%ld: %s\n", port, strerror(errno));
    rd_kafka_destroy(handle);
    return 1;
  }
  printf("%s\n", rd_kafka_mock_cluster_bootstraps(cluster));
  fflush(stdout);

  int signal_number;
  sigwait(&stop, &signal_number);
  rd_kafka_mock_cluster_destroy(cluster);
  rd_kafka_destroy(handle);
  return 0;
}
