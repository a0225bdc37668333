// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "conduit/handles.hpp"
#include "penstock/conduit.hpp"

namespace penstock::conduit {

/// The settings of a producer or consumer: penstock's, under the user's. Both throw std::invalid_argument, naming the property,
/// for one librdkafka does not know, a value it does not take, and one that would break what penstock promises.
Conf producer_conf(const ConduitOptions& options);
Conf consumer_conf(const ConduitOptions& options, const ConduitSourceOptions& source, const std::string& group);

/// What a property was set to, in librdkafka's spelling.
std::string property_text(const rd_kafka_conf_t* conf, const char* name);
long long property_number(const rd_kafka_conf_t* conf, const char* name);

/// Whether librdkafka takes up fetching at once when there is room again for what it fetches ahead. Before 2.2 it looks once a
/// second only.
bool refetches_at_once();

/// Makes the client; std::invalid_argument when the settings do not go together.
Client make_client(rd_kafka_type_t type, Conf conf);

}  // namespace penstock::conduit
