// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lane/amqp.hpp"
#include "penstock/envelope.hpp"
#include "penstock/event.hpp"

namespace penstock::lane {

/// How often the message was delivered before it came back from a delay; ours alone, and never shown to a handler.
inline constexpr std::string_view deliveries_header = "x-penstock-deliveries";
/// The payload is null. AMQP knows only the empty body.
inline constexpr std::string_view null_header = "x-penstock-null";

/// In which order the headers were before RabbitMQ, which sorts them when it moves a message out of a delay queue.
inline constexpr std::string_view order_header = "x-penstock-order";

/// A queue that holds messages for `delay` and then hands them to `target`.
struct DelayQueue {
  std::string target{};
  std::chrono::milliseconds delay{};
  [[nodiscard]] std::string name() const { return target + ".retry." + std::to_string(delay.count()); }
};

/// Properties as they came in, to be sent on with their types intact.
class RawProperties {
 public:
  /// Reads the bytes of a content header. Throws AmqpError when they are none.
  explicit RawProperties(std::string_view encoded);
  ~RawProperties();
  RawProperties(const RawProperties&) = delete;
  RawProperties& operator=(const RawProperties&) = delete;

  amqp_basic_properties_t* operator->() noexcept { return properties_; }
  amqp_basic_properties_t& operator*() noexcept { return *properties_; }

 private:
  amqp_pool_t pool_{};
  std::string encoded_;  // what the decoded texts point into
  amqp_basic_properties_t* properties_ = nullptr;
};

/// One message on its way to a queue.
struct Parcel {
  std::string routing_key{};
  std::string body{};
  Headers headers{};
  std::string content_type{};
  std::string message_id{};
  std::string type{};
  std::string correlation_id{};
  std::string app_id{};
  std::string content_encoding{};
  std::string reply_to{};
  std::optional<std::uint8_t> priority{};
  std::optional<std::uint64_t> timestamp{};
  bool null_body = false;

  std::unique_ptr<RawProperties> raw{};  ///< instead of all of the above but routing key and body
  std::vector<amqp_table_entry_t> raw_headers{};
  std::vector<std::vector<amqp_field_value_t>> raw_arrays{};
  std::unique_ptr<std::string> order{};  ///< the text of that header
  std::optional<DelayQueue> through{};   ///< declared first, when it was not lately
  std::string refused{};                 ///< why it cannot be sent at all

  /// What RabbitMQ gives back with a message that it returns; what is empty there is empty here.
  [[nodiscard]] std::string_view returned_id() const noexcept {
    return raw ? view((**raw)._flags & AMQP_BASIC_MESSAGE_ID_FLAG ? (**raw).message_id : amqp_bytes_t{0, nullptr})
               : std::string_view{message_id};
  }
};

/// Lays an event out for RabbitMQ: `cloudEvents_` headers, and the properties its own tools show. What AMQP cannot carry comes
/// back `refused`.
Parcel pack(const Event& event, const std::string& queue);

/// The properties of a parcel for one publish; points into the parcel. Throws nothing.
class OutgoingProperties {
 public:
  explicit OutgoingProperties(Parcel& parcel);
  [[nodiscard]] const amqp_basic_properties_t* get() const noexcept { return properties_; }
  /// An upper bound of the bytes they take in the content header's frame.
  [[nodiscard]] std::size_t encoded_size() const;

 private:
  std::vector<amqp_table_entry_t> entries_;
  amqp_basic_properties_t own_{};
  const amqp_basic_properties_t* properties_ = &own_;
};

/// A received message, taken out of rabbitmq-c's memory.
struct Received {
  Wire wire{};
  std::uint32_t earlier = 0;  ///< deliveries before this one that the message or RabbitMQ counted
  bool counted = false;       ///< RabbitMQ counts deliveries of this queue (a quorum queue)
};

/// `delays_of` is the queue whose delay queues' traces are taken off.
Received unpack(const amqp_basic_properties_t& properties, std::string body, const std::string& delays_of);

/// A received message that goes back to its queue, now or through a delay queue, with the same bytes and one more delivery.
Parcel repack(std::string_view encoded_properties, std::string body, const std::string& queue,
              std::optional<DelayQueue> through, std::uint32_t deliveries, const std::string& user);

/// The canonical text of a header's value: CloudEvents' where it has that type, JSON for tables and arrays; null for void.
std::optional<std::string> canonical_text(const amqp_field_value_t& value);

}  // namespace penstock::lane
