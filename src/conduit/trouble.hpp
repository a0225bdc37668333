// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <librdkafka/rdkafka.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

namespace penstock::conduit {

/// What keeps a client from its brokers, for outcomes and errors: librdkafka itself says of a certificate only that it is
/// refused, and of an event only that its time is over. Thread safety: any thread. Lifetime: must outlive the client.
class Trouble {
 public:
  /// Makes librdkafka ask `judge`, on its own threads, about each certificate. Its last argument is the conf's opaque.
  using Judge = int(rd_kafka_t*, const char*, std::int32_t, int*, int, const char*, std::size_t, char*, std::size_t, void*);
  static void listen(rd_kafka_conf_t* conf, Judge* judge);
  /// What a `judge` answers whose opaque is a Trouble: as OpenSSL did, having noted why.
  static Judge note;

  /// A broker's certificate does not stand: `x509_error` is OpenSSL's number.
  std::string certificate(const char* broker, int x509_error);
  /// librdkafka's words for an error of a connection or a login.
  void connection(rd_kafka_resp_err_t error, const std::string& words);
  /// A broker answered.
  void over();
  /// ": <the last of them>", or nothing.
  [[nodiscard]] std::string suffix() const;

 private:
  mutable std::mutex mutex_;
  std::string certificate_;
  std::string connection_;
};

}  // namespace penstock::conduit
