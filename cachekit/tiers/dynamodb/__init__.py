"""The DynamoDB tier: `DynamoDBCache`."""
